// The options of a request, which the camera, Try and its code samples share.

import { byId, el } from "./dom.js";

const FIELDS = ["detect", "emotion", "keypoints", "key", "timeout"];

/** Return the options that differ from the gateway's defaults. */
export function options() {
  const given = Object.fromEntries(FIELDS.map((name) => [name, byId(`option-${name}`).value.trim()]));
  if (given.detect === "auto") given.detect = "";
  if (byId("option-partial").checked) given.partial = "true";
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== ""));
}

/** Call a function whenever the user changed an option to a valid value. */
export function onOptions(listener) {
  byId("options").addEventListener("change", () => byId("options").checkValidity() && listener());
  byId("options").addEventListener("submit", (event) => event.preventDefault());
}

/** Return the labels and versions of a model that calls can name, with texts for people. */
export function choices(model) {
  const available = model.versions.filter(({ state }) => state === "AVAILABLE");
  const labels = available.flatMap(({ version, labels: names }) =>
    names.map((label) => [label, `${label} (version ${version})`]),
  );
  labels.sort(([one], [other]) => other.localeCompare(one)); // stable before canary
  return [...labels, ...available.map(({ version }) => [String(version), `version ${version}`])];
}

/** Offer the versions of a model in a select element, and keep what is selected. */
export function offer(select, first, model) {
  const kept = select.value;
  const entries = [...first, ...choices(model)];
  if (kept && !entries.some(([value]) => value === kept)) entries.push([kept, `${kept} (not available)`]);
  const shown = JSON.stringify(entries);
  if (select.dataset.shown === shown) return;
  select.dataset.shown = shown;
  select.replaceChildren(...entries.map(([value, text]) => el("option", { value }, text)));
  select.value = kept || entries[0]?.[0];
}
