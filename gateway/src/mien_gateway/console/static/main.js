// The console: tabs, colours, keys, and the three panels.

import { connectCamera, stopCamera } from "./camera.js";
import { connectCompare, runComparison } from "./compare.js";
import { byId } from "./dom.js";
import { connectKeys, onKeys } from "./keys.js";
import { connectCard } from "./modelcard.js";
import { connectSource } from "./pictures.js";
import { connectSnippets } from "./snippets.js";
import { connectTry, run } from "./try.js";
import { connectVersions, refresh } from "./versions.js";

const TABS = ["try", "compare", "versions"];
let active = "try";

const isActive = (name) => () => active === name;
const OPENED = { try: run, compare: runComparison, versions: refresh };

function open(name) {
  active = name;
  for (const tab of TABS) {
    const button = byId(`tab-${tab}`);
    button.setAttribute("aria-selected", String(tab === name));
    button.tabIndex = tab === name ? 0 : -1;
    byId(tab).hidden = tab !== name;
  }
  byId("source").hidden = name === "versions";
  byId("camera-part").hidden = name !== "try";
  if (name !== "try") stopCamera();
  OPENED[name]();
}

function fromAddress() {
  const name = location.hash.slice(1);
  open(TABS.includes(name) ? name : "try");
}

function connectTabs() {
  for (const [index, name] of TABS.entries()) {
    const button = byId(`tab-${name}`);
    button.addEventListener("click", () => (location.hash = name));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -index, End: TABS.length - 1 - index }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      const next = TABS[(index + step + TABS.length) % TABS.length];
      location.hash = next;
      byId(`tab-${next}`).focus();
    });
  }
  addEventListener("hashchange", fromAddress);
}

function connectTheme() {
  const select = byId("theme");
  select.value = document.documentElement.dataset.theme ?? "auto";
  select.addEventListener("change", () => {
    if (select.value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = select.value;
    try {
      localStorage.setItem("mien-theme", select.value);
    } catch {
      // Storage can be forbidden; the choice then holds for this page.
    }
  });
}

connectTheme();
connectKeys();
connectCard();
connectSnippets();
connectSource();
connectCamera();
connectTry(isActive("try"));
connectCompare(isActive("compare"));
connectTabs();
connectVersions(isActive("versions"));
onKeys(() => {
  OPENED[active]();
  refresh();
});
fromAddress();
