// The dialog in which the user enters keys.

import { keys } from "./api.js";
import { byId } from "./dom.js";

const changes = new EventTarget();

/** Call a function whenever a key was entered or removed. */
export function onKeys(listener) {
  changes.addEventListener("change", listener);
}

/** Open the dialog. */
export function openKeys() {
  byId("key-caller").value = keys.caller;
  byId("key-operator").value = keys.operator;
  byId("keys").showModal();
}

/** Connect the dialog's buttons. */
export function connectKeys() {
  byId("open-keys").addEventListener("click", openKeys);
  byId("keys-cancel").addEventListener("click", () => byId("keys").close());
  byId("keys-form").addEventListener("submit", () => {
    keys.caller = byId("key-caller").value.trim();
    keys.operator = byId("key-operator").value.trim();
    byId("open-keys").classList.toggle("set", Boolean(keys.caller || keys.operator));
    changes.dispatchEvent(new Event("change"));
  });
}
