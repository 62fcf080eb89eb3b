// What a version is: its model card, if it has one, and the facts of its manifest.

import { byId, el } from "./dom.js";
import { percent } from "./faces.js";
import { markdown } from "./markdown.js";

const FIGURES = {
  consensus_accuracy: ["Accuracy, where most voters agree", (value) => value.toFixed(4)],
  consensus_macro_f1: ["Macro-F1, where most voters agree", (value) => value.toFixed(4)],
  accuracy: ["Accuracy against the label", (value) => value.toFixed(4)],
  macro_f1: ["Macro-F1 against the label", (value) => value.toFixed(4)],
  other_auc: ["None of the five, area under the ROC curve", (value) => value.toFixed(4)],
  nme: ["Mean error, of the eye distance", (value) => percent(value, 2)],
  rmse_48: ["Root mean square error, 48×48 pixels", (value) => `${value.toFixed(2)} px`],
};

/** Open the card of a version. */
export function showCard(name, { version, manifest, card }) {
  byId("card-title").textContent = `${name} ${version}`;
  byId("card-body").replaceChildren(
    facts(manifest),
    ...(card ? [el("div", { class: "markdown" }, ...markdown(card))] : []),
    el("details", {}, el("summary", {}, "The whole manifest"), el("pre", { tabindex: "0" }, JSON.stringify(manifest, null, 2))),
  );
  byId("card").showModal();
  byId("card-body").scrollTop = 0;
}

/** Connect the dialog's button. */
export function connectCard() {
  byId("card-close").addEventListener("click", () => byId("card").close());
}

function facts(manifest) {
  const metrics = manifest.metrics ?? {};
  const rows = [
    ["Made", manifest.created?.slice(0, 19).replace("T", " ")],
    ["Trained on", [manifest.trained_on?.file, manifest.trained_on?.votes].filter(Boolean).join(", ")],
    ["Split", manifest.split],
    ["Faces", metrics.faces && Object.entries(metrics.faces).map(([part, count]) => `${count.toLocaleString()} ${part}`).join(", ")],
    ...Object.entries(metrics.validation ?? {})
      .filter(([key]) => FIGURES[key])
      .map(([key, value]) => [FIGURES[key][0], FIGURES[key][1](value)]),
    ["Weights", metrics.weights?.toLocaleString()],
    ["Outputs", manifest.outputs?.join(", ").replaceAll("_", " ")],
    ["Made with", Object.entries(manifest.versions ?? {}).map(([what, number]) => `${what} ${number}`).join(", ")],
  ];
  const shown = rows.filter(([, value]) => value);
  return el("dl", { class: "facts" }, ...shown.flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, String(value))]));
}
