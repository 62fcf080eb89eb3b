// Compare: the same pictures through two sets of versions, side by side.

import { analyze } from "./api.js";
import { byId, el, table } from "./dom.js";
import { bars, eyeDistance, movement, percent, pointName, summary, verdict, versionText } from "./faces.js";
import { offer } from "./options.js";
import { figure } from "./picture.js";
import { onChange } from "./pictures.js";
import { Question } from "./question.js";

const SIDES = ["left", "right"];
const MODELS = ["emotion", "keypoints"];
/** Differences from these on are marked: of a probability, and of a point as a share of the distance of the eyes. */
const MARKED = { share: 0.01, movement: 0.01 };

const question = new Question("compare-status", compare, refuse);
let touched = false;
let isShown = () => false;

/** Connect Compare to the pictures and to the choice of versions. */
export function connectCompare(shown) {
  isShown = shown;
  const update = () => {
    question.renew();
    if (isShown()) runComparison();
  };
  onChange(update);
  byId("sides").addEventListener("change", () => {
    touched = true;
    update();
  });
}

/** Offer the versions that the gateway knows: at first stable on the left and, where there is one, canary on the right. */
export function offerSides(models) {
  const labels = (name) => models[name]?.versions.flatMap((version) => version.labels) ?? [];
  const before = JSON.stringify(SIDES.map(chosen));
  for (const side of SIDES) {
    for (const name of MODELS) {
      const select = byId(`${side}-${name}`);
      if (!models[name]) continue;
      offer(select, [], models[name]);
      if (touched) continue;
      const wanted = side === "right" && labels(name).includes("canary") ? "canary" : "stable";
      if (labels(name).includes(wanted)) select.value = wanted;
    }
  }
  byId("no-canary").hidden = MODELS.some((name) => labels(name).includes("canary"));
  if (JSON.stringify(SIDES.map(chosen)) === before) return;
  question.renew();
  if (isShown()) runComparison();
}

function chosen(side) {
  return Object.fromEntries(MODELS.map((name) => [name, byId(`${side}-${name}`).value]));
}

/** Ask both sides about the current pictures if that is not shown yet, and show what differs. */
export function runComparison() {
  return question.ask();
}

async function compare(pictures, signal) {
  const files = pictures.map(({ file }) => file);
  const answers = await Promise.all(SIDES.map((side) => analyze(files, chosen(side), signal)));
  const parts = pictures.map((picture, index) => comparison(picture, index, answers));
  byId("comparisons").replaceChildren(...parts.map(({ element }) => element));
  return parts.map(({ text }) => text).join(" ");
}

function refuse(_pictures, problem) {
  byId("comparisons").replaceChildren();
  return problem.message;
}

function comparison({ file, url }, index, [left, right]) {
  const before = left.faces.filter((face) => face.picture === index);
  const found = right.faces.filter((face) => face.picture === index);
  const after = match(before, found);
  const added = found.filter((face) => !after.includes(face));
  const size = left.pictures[index];
  const image = (answer) => el("img", { src: url, alt: `${file.name}, by ${versionText(answer.versions)}` });
  const one = figure(image(left), size, before);
  const ghosts = before.filter((_, number) => after[number]);
  const other = figure(image(right), size, [...after.filter(Boolean), ...added], { ghosts });
  one.append(el("figcaption", {}, versionText(left.versions, left.labels)));
  other.append(el("figcaption", {}, versionText(right.versions, right.labels)));
  const faces = before.map((face, number) => differences(face, after[number]));
  const tables = faces.map(({ rows }, number) => {
    const title = before.length > 1 ? `Face ${number + 1}` : "The face";
    return el("div", { class: "card" }, el("h2", {}, title), differenceTable(title, rows));
  });
  for (const face of added) {
    tables.push(el("div", { class: "card" }, el("h2", {}, "Only on the right"), el("p", {}, `≠ ${verdict(face).name}`)));
  }
  const marked = faces.reduce((sum, { rows }) => sum + rows.filter(({ differs }) => differs).length, added.length);
  const text = tables.length === 0 ? summary([]) : differenceText(marked);
  const element = el(
    "article",
    { class: "comparison", "aria-label": file.name },
    el("div", { class: "pair" }, one, other),
    tables.length === 0 ? el("p", {}, text) : el("div", { class: "cards" }, ...tables),
  );
  return { element, text };
}

function differenceText(count) {
  if (count === 0) return "No difference.";
  return `${count === 1 ? "1 difference" : `${count} differences`}, marked ≠.`;
}

/** Return, for each face, the face of the other answer whose box covers it best; null if none does. */
function match(faces, others) {
  return faces.map((face) => {
    const scored = others.map((other) => [overlap(face.box, other.box), other]);
    const [best] = scored.sort(([one], [two]) => two - one);
    return best && best[0] > 0.3 ? best[1] : null;
  });
}

function overlap(one, other) {
  if (!one || !other) return one === other ? 1 : 0;
  const width = Math.min(one.left + one.width, other.left + other.width) - Math.max(one.left, other.left);
  const height = Math.min(one.top + one.height, other.top + other.height) - Math.max(one.top, other.top);
  const shared = Math.max(width, 0) * Math.max(height, 0);
  return shared / (one.width * one.height + other.width * other.height - shared);
}

function differences(before, after) {
  if (!after) return { rows: [{ name: "Face", left: "found", right: "not found", change: "", differs: true }] };
  const [one, other] = [verdict(before), verdict(after)];
  const rows = [
    { name: "Emotion", left: one.name, right: other.name, change: one.name === other.name ? "" : "changed", differs: one.name !== other.name },
  ];
  const others = new Map(bars(after).map(({ name, share }) => [name, share]));
  for (const { name, share, apart } of bars(before)) {
    const now = others.get(name);
    if (now === undefined) continue;
    const points = (now - share) * 100;
    rows.push({
      name,
      apart,
      left: percent(share),
      right: percent(now),
      change: Math.abs(points) < 0.05 ? "" : `${points > 0 ? "+" : "−"}${Math.abs(points).toFixed(1)} points`,
      differs: Math.abs(now - share) >= MARKED.share,
    });
  }
  const moved = movement(before.keypoints, after.keypoints);
  if (moved) {
    const eyes = eyeDistance(before.keypoints);
    const share = (distance) => (eyes ? ` (${percent(distance / eyes)} of the eye distance)` : "");
    const differs = (distance) => Boolean(eyes) && distance / eyes >= MARKED.movement;
    const row = (name, distance, where = "") => ({
      name,
      left: "",
      right: where,
      change: `${distance.toFixed(2)} px${share(distance)}`,
      differs: differs(distance),
    });
    rows.push(row("Points moved, mean", moved.mean), row("Points moved, most", moved.largest, pointName(moved.point)));
  }
  return { rows };
}

function differenceTable(title, rows) {
  const columns = ["", "Left", "Right", "Difference"];
  return table(
    `Differences: ${title}`,
    columns,
    rows.map(({ name, left, right, change, differs, apart }) =>
      el(
        "tr",
        { class: [differs ? "differs" : "", apart ? "apart" : ""].join(" ").trim() },
        el("th", { scope: "row" }, name),
        el("td", {}, left),
        el("td", {}, right),
        el("td", {}, differs ? "≠ " : "", change || "–"),
      ),
    ),
  );
}
