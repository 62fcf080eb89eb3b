// What an answer says about one face: its emotion, the probabilities, the key points.

import { el } from "./dom.js";
import { bars, percent, pointName, verdict, versionText } from "./faces.js";

/** Return a card with what an answer says about one face. */
export function faceCard(face, prefix = "") {
  const { name, share } = verdict(face);
  const errors = Object.entries(face.errors ?? {}).map(([model, error]) =>
    el("p", { class: "bad" }, `${model}: ${error.message}`),
  );
  return el(
    "div",
    { class: "card" },
    el("h2", {}, `${prefix}${name}`, share === null ? null : el("span", { class: "share" }, ` ${percent(share)}`)),
    ...errors,
    barTable(face),
    pointDetails(face),
    el("p", { class: "quiet" }, `Versions: ${versionText(face.versions)}`),
  );
}

function barTable(face) {
  const rows = bars(face).map(({ name, share, chosen, apart }) => {
    const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span", {}));
    bar.firstChild.style.width = percent(share, 2);
    return el(
      "tr",
      { class: [chosen ? "chosen" : "", apart ? "apart" : ""].join(" ").trim() },
      el("th", { scope: "row" }, name),
      el("td", { class: "wide" }, bar),
      el("td", { class: "number" }, percent(share)),
    );
  });
  return rows.length === 0 ? null : el("table", { class: "bars" }, el("caption", { class: "unseen" }, "Probabilities"), ...rows);
}

function pointDetails(face) {
  if (!face.keypoints) return null;
  const rows = Object.entries(face.keypoints).map(([name, { x, y }]) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, pointName(name)),
      el("td", { class: "number" }, x.toFixed(1)),
      el("td", { class: "number" }, y.toFixed(1)),
    ),
  );
  const columns = ["Point", "x", "y"].map((column) => el("th", { scope: "col" }, column));
  return el(
    "details",
    {},
    el("summary", {}, `${rows.length} key points`),
    el("table", { class: "points" }, el("thead", {}, el("tr", {}, ...columns)), el("tbody", {}, ...rows)),
  );
}
