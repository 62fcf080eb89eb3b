// The journal of rollouts as a timeline, newest first.

import { el } from "./dom.js";

const BEGUN = "begun";
const FAILED = "failed";

/** Return the entries of the journal, the newest first, as a list. */
export function timeline(entries) {
  const items = changes(entries).map(item);
  return items.length === 0 ? el("p", { class: "quiet" }, "The journal is empty.") : el("ol", { class: "timeline" }, ...items);
}

/** Leave out what only says that a change began, unless nothing says how it ended. */
function changes(entries) {
  const ended = new Set(entries.filter(({ event }) => event !== BEGUN).map(({ id }) => id));
  return entries.filter(({ event, id }) => event !== BEGUN || !ended.has(id));
}

function item(entry) {
  const outcome = result(entry);
  return el(
    "li",
    { class: outcome.mood },
    el(
      "div",
      { class: "what" },
      el("strong", {}, entry.model || "all models"),
      ` ${what(entry)}`,
      el("span", { class: `pill ${outcome.mood}` }, outcome.text),
    ),
    el("div", { class: "quiet" }, el("time", { datetime: entry.time }, localTime(entry.time)), ` · ${entry.who}`),
    entry.why ? el("div", {}, `“${entry.why}”`) : null,
    entry.detail ? el("div", { class: "bad" }, entry.detail) : null,
  );
}

function localTime(time) {
  const date = new Date(time);
  return Number.isNaN(date.valueOf()) ? time : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** Return what an entry changed, in words. */
export function what(entry) {
  const { verb } = entry;
  if (verb === "publish") return `publish ${entry.version ?? ""}`.trim();
  if (verb === "compare") return `compare ${entry.stable} with ${entry.canary}`;
  const before = entry.before ?? {};
  const after = entry.after ?? {};
  const told = ["stable", "canary"].flatMap((label) => {
    const [old, now] = [before.labels?.[label], after.labels?.[label]];
    return old === now ? [] : [`${label} ${old ?? "–"} → ${now ?? "–"}`];
  });
  if (entry.percent) told.push(`canary's share ${entry.percent.before}% → ${entry.percent.after}%`);
  const gone = [...new Set([...(before.versions ?? []), ...(entry.gone ?? [])])].filter((version) => !after.versions?.includes(version));
  if (gone.length > 0 && entry.after) told.push(`${entry.delete ? "delete" : "unload"} ${gone.join(", ")}`);
  return told.length > 0 ? `${verb}: ${told.join(", ")}` : verb;
}

function result(entry) {
  if (entry.event === BEGUN) return { text: "not finished", mood: "warn" };
  if (entry.verb === "compare" && entry.event !== FAILED) {
    if (entry.passed) return { text: "passed", mood: "good" };
    return { text: ["failed", ...(entry.failed_gates ?? [])].join(" "), mood: "bad" };
  }
  if (entry.event === FAILED) return { text: entry.resume ? "unfinished" : "reverted", mood: "bad" };
  const without = Object.keys(entry.without ?? {});
  return { text: without.length ? `done without ${without.join(", ")}` : "done", mood: without.length ? "warn" : "good" };
}
