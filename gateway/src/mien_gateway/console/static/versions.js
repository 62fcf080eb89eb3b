// Versions and rollouts: what the servers have, what the versions are, and how they answer now.

import { journal, live, models } from "./api.js";
import { offerSides } from "./compare.js";
import { byId, el, show, svg, table } from "./dom.js";
import { percent } from "./faces.js";
import { showCard } from "./modelcard.js";
import { offer } from "./options.js";
import { controls } from "./rollout.js";
import { timeline } from "./timeline.js";

const EVERY = 2000;
const JOURNAL_ENTRIES = 100;
/** Points of a line: at one every two seconds, the last two minutes. */
const HISTORY = 60;

const rates = new Map();
const sections = new Map();
let isShown = () => false;

/** Look after the versions for as long as the page is open, and after rates and journal while they are shown. */
export function connectVersions(shown) {
  isShown = shown;
  const poll = async () => {
    if (!document.hidden) await refresh();
    setTimeout(poll, EVERY);
  };
  poll();
}

/** Ask the gateway once, and show what changed. */
export async function refresh() {
  try {
    showModels(await models());
    byId("versions-status").textContent = "";
    byId("offline").hidden = true;
  } catch (error) {
    byId("versions-status").textContent = error.message;
    byId("offline").hidden = error.status !== 0;
    return;
  }
  if (!isShown()) return;
  await Promise.all([refreshLive(), refreshJournal()]);
}

async function refreshLive() {
  try {
    showLive((await live()).versions);
  } catch (error) {
    byId("versions-status").textContent = error.message;
  }
}

async function refreshJournal() {
  try {
    show(byId("journal"), (await journal(JOURNAL_ENTRIES)).entries, timeline);
  } catch (error) {
    show(byId("journal"), error.message, (text) => el("p", { class: "quiet" }, text));
  }
}

function showModels({ models: found, servers }) {
  for (const [name, model] of Object.entries(found)) {
    const section = sections.get(name) ?? addSection(name);
    show(section.split, [model.versions, model.canary_percent], () => splitBar(model));
    show(section.versions, model.versions, (versions) => versionTable(name, versions));
    section.controls.update(model);
    const select = byId(`option-${name}`);
    if (select) offer(select, [["", "as the split decides"]], model);
  }
  offerSides(found);
  show(byId("servers"), servers, (list) => serverTable(list, Object.keys(found)));
}

function addSection(name) {
  const title = el("h2", { id: `model-${name}` }, name);
  const section = { split: el("div"), versions: el("div"), controls: controls(name, refresh) };
  byId("models").append(
    el("section", { class: "panel", "aria-labelledby": title.id }, title, section.split, section.versions, section.controls.element),
  );
  sections.set(name, section);
  return section;
}

function labelled(model, label) {
  return model.versions.find(({ labels }) => labels.includes(label))?.version;
}

function splitBar(model) {
  const [stable, canary] = [labelled(model, "stable"), labelled(model, "canary")];
  if (stable === undefined) return el("p", { class: "quiet" }, "No version has the label stable yet, so the highest available version answers.");
  const share = canary === undefined ? 0 : (model.canary_percent ?? 0);
  const bar = el("div", { class: "split", "aria-hidden": "true" }, el("span", {}));
  bar.firstChild.style.width = `${share}%`;
  const text =
    canary === undefined
      ? `All calls go to version ${stable} (stable).`
      : `${100 - share}% of the calls go to version ${stable} (stable), ${share}% to version ${canary} (canary).`;
  return [el("p", {}, text), bar];
}

function versionTable(name, versions) {
  if (versions.length === 0) return el("p", { class: "quiet" }, "No server has a version of this model.");
  const columns = ["Version", "Labels", "State", "Calls/s", "Errors", "p50", "p99", "Two minutes", "Measured", "Made", ""];
  const rows = [...versions].sort((one, other) => other.version - one.version).map((version) => versionRow(name, version));
  return table(`Versions of ${name}`, columns, rows, { class: "versions" });
}

function versionRow(name, facts) {
  const { version, state, labels, manifest } = facts;
  const cell = (what) => el("td", { class: "number", "data-live": `${name}/${version}/${what}` }, "–");
  const open = () => showCard(name, facts);
  const card = el("button", { type: "button", class: "small", click: open, "aria-label": `Model card of ${name} ${version}` }, "Card");
  return el(
    "tr",
    {},
    el("th", { scope: "row" }, String(version)),
    el("td", {}, ...labels.map((label) => el("span", { class: `pill ${label}` }, label))),
    el("td", {}, stateText(state)),
    ...["rate", "errors", "p50", "p99"].map(cell),
    el("td", { "data-live": `${name}/${version}/line` }),
    el("td", {}, headline(manifest)),
    el("td", {}, manifest?.created ? manifest.created.slice(0, 10) : ""),
    el("td", {}, manifest ? card : null),
  );
}

function stateText(state) {
  const mood = { AVAILABLE: "good", LOADING: "busy", UNLOADING: "busy", START: "busy" }[state] ?? "off";
  return el("span", { class: `state ${mood}` }, state.toLowerCase());
}

/** Return the figure by which a version is best known. */
function headline(manifest) {
  const figures = manifest?.metrics?.validation ?? {};
  if (figures.consensus_accuracy !== undefined) return `accuracy ${figures.consensus_accuracy.toFixed(3)}`;
  if (figures.accuracy !== undefined) return `accuracy ${figures.accuracy.toFixed(3)}`;
  if (figures.nme !== undefined) return `error ${percent(figures.nme, 2)} of eye distance`;
  return "";
}

function serverTable(servers, names) {
  const state = (versions) => (versions ?? []).map(({ version, state: name }) => el("div", {}, `${version} `, stateText(name)));
  const rows = servers.map((server) =>
    el(
      "tr",
      {},
      el("th", { scope: "row" }, server.address),
      el("td", {}, el("span", { class: `state ${server.ready ? "good" : "off"}` }, server.ready ? "ready" : "not ready")),
      ...names.map((name) => el("td", {}, ...state(server.models?.[name]))),
    ),
  );
  return table("Servers", ["Server", "State", ...names], rows);
}

function showLive(versions) {
  const found = new Map(versions.map((one) => [`${one.model}/${one.version}`, one]));
  for (const cell of document.querySelectorAll("[data-live]")) {
    const [model, version, what] = cell.dataset.live.split("/");
    const key = `${model}/${version}`;
    const one = found.get(key);
    if (what === "line") cell.replaceChildren(...line(remember(key, one?.requests_per_second ?? 0)));
    else cell.textContent = one ? figureText(one, what) : "–";
    if (what === "errors") cell.classList.toggle("bad", Boolean(one?.error_share));
  }
}

function figureText(one, what) {
  const milliseconds = (value) => (value === null || value === undefined ? "–" : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
  if (what === "rate") return one.requests_per_second.toFixed(1);
  if (what === "errors") return one.error_share === null ? "–" : percent(one.error_share);
  return milliseconds(what === "p50" ? one.p50_ms : one.p99_ms);
}

function remember(key, rate) {
  const points = [...(rates.get(key) ?? []), rate].slice(-HISTORY);
  rates.set(key, points);
  return points;
}

/** Return the calls per second of the last two minutes as a line. */
function line(past) {
  if (past.length < 2) return [];
  const top = Math.max(...past, 1);
  const points = past.map((rate, index) => `${HISTORY - past.length + index + 1},${(22 - (rate / top) * 20).toFixed(1)}`);
  const shape = svg("polyline", { points: points.join(" ") });
  return [svg("svg", { class: "line", viewBox: `0 0 ${HISTORY} 24`, preserveAspectRatio: "none", "aria-hidden": "true" }, shape)];
}
