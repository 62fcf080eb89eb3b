// What operators can do: shift the split, promote, roll back, abort. Each says first what will happen.

import { act, keys } from "./api.js";
import { byId, el } from "./dom.js";
import { onKeys, openKeys } from "./keys.js";

const VERBS = { shift: "Shift", promote: "Promote", rollback: "Roll back", abort: "Abort" };
/** The verbs that a failed comparison stops, unless they are forced. */
const GATED = ["promote", "rollback"];

/**
 * Return the controls of one model.
 *
 * @param {Function} done Called after a change, to show the new state.
 * @returns {{element: HTMLElement, update: Function}} `update` takes the model as `GET /v1/models` gives it.
 */
export function controls(model, done) {
  const output = el("output", { for: `share-${model}` });
  const share = el("input", { type: "range", id: `share-${model}`, min: 0, max: 100, step: 1, value: 0 });
  const say = () => (output.textContent = `${share.value}%`);
  let touched = false;
  share.addEventListener("input", () => {
    touched = true;
    say();
  });
  const button = (verb) =>
    el("button", { type: "button", class: verb === "abort" ? "danger" : "", click: () => begin(verb) }, `${VERBS[verb]} …`);
  const buttons = Object.fromEntries(Object.keys(VERBS).map((verb) => [verb, button(verb)]));
  const form = el(
    "div",
    { class: "controls" },
    el("div", { class: "shift" }, el("label", { for: `share-${model}` }, "Canary's share"), share, output, buttons.shift),
    el("div", { class: "row" }, buttons.promote, buttons.rollback, buttons.abort),
  );
  const locked = el(
    "p",
    { class: "quiet" },
    "Shifting, promoting, rolling back and aborting need an operator's key. ",
    el("button", { type: "button", class: "small", click: openKeys }, "Enter a key"),
  );
  const toggle = () => {
    form.hidden = !keys.operator;
    locked.hidden = Boolean(keys.operator);
  };
  onKeys(toggle);
  toggle();

  async function begin(verb) {
    const request = { model, ...(verb === "shift" ? { percent: Number(share.value) } : {}) };
    if (!(await confirm(verb, request))) return;
    touched = false;
    await done();
  }

  function update({ versions, canary_percent: current }) {
    const canary = versions.some(({ labels }) => labels.includes("canary"));
    for (const control of [share, buttons.shift, buttons.promote, buttons.abort]) control.disabled = !canary;
    if (touched) return;
    share.value = current ?? 0;
    say();
  }

  return { element: el("div", { class: "operate" }, form, locked), update };
}

/** Ask the gateway what a change will do, ask the user, and make the change. Return whether it was made. */
function confirm(verb, request) {
  const dialog = byId("confirm");
  const [why, force, go, cancel] = ["why", "force", "go", "cancel"].map((name) => byId(`confirm-${name}`));
  byId("confirm-title").textContent = `${VERBS[verb]}: ${request.model}`;
  byId("confirm-forcing").hidden = !GATED.includes(verb);
  go.textContent = VERBS[verb];
  go.classList.toggle("danger", verb === "abort");
  cancel.textContent = "Cancel";
  why.value = "";
  force.checked = false;
  let latest = 0;

  const whole = () => ({
    ...request,
    ...(why.value.trim() ? { why: why.value.trim() } : {}),
    ...(force.checked ? { force: true } : {}),
  });

  async function ask() {
    const number = ++latest;
    say("Asking what will happen …");
    go.disabled = true;
    try {
      const answer = await act(verb, { ...whole(), dry_run: true });
      if (number !== latest) return;
      say(answer.will, answer.log);
      go.disabled = false;
    } catch (error) {
      if (number === latest) say(error.message, [], true);
    }
  }

  async function make() {
    latest += 1;
    go.disabled = true;
    say("Working … Closing this window does not stop it.");
    try {
      const answer = await act(verb, whole());
      byId("rollout-status").textContent = answer.done;
      dialog.close("done");
    } catch (error) {
      say(error.message, [], true);
      cancel.textContent = "Close";
    }
  }

  return new Promise((resolve) => {
    go.onclick = make;
    cancel.onclick = () => dialog.close("");
    force.onchange = ask;
    // A forced change needs a reason, which the gateway checks.
    why.onchange = () => force.checked && ask();
    dialog.onclose = () => {
      latest += 1;
      resolve(dialog.returnValue === "done");
    };
    dialog.returnValue = "";
    dialog.showModal();
    ask();
  });
}

function say(text, log = [], bad = false) {
  const will = byId("confirm-will");
  will.textContent = text;
  will.className = bad ? "bad" : "";
  byId("confirm-lines").textContent = log.join("\n");
  byId("confirm-log").hidden = log.length === 0;
}
