// The pictures that the user chose. Try and Compare show the same ones.

import { address, samples } from "./api.js";
import { byId, el } from "./dom.js";

const changes = new EventTarget();
let chosen = [];

/** Return the chosen files, each with the URL by which the page shows it. */
export function current() {
  return chosen;
}

/** Choose pictures: files, or parts of what was dropped or pasted. */
export function choose(files) {
  const pictures = [...files].filter((file) => file.type.startsWith("image/") || file.type === "");
  if (pictures.length === 0) {
    if (files.length > 0) report("That is not a picture. Choose JPEG, PNG, WebP, BMP or GIF files.");
    return;
  }
  for (const { url } of chosen) URL.revokeObjectURL(url);
  chosen = pictures.map((file) => ({ file, url: URL.createObjectURL(file) }));
  report("");
  changes.dispatchEvent(new Event("change"));
}

/** Call a function whenever other pictures were chosen. */
export function onChange(listener) {
  changes.addEventListener("change", listener);
}

function report(text) {
  byId("source-problem").textContent = text;
}

/** Connect the drop zone, the file chooser, the clipboard and the samples. */
export function connectSource() {
  const zone = byId("drop");
  const input = byId("files");
  input.addEventListener("change", () => {
    choose(input.files);
    input.value = ""; // The same file can be chosen again.
  });
  // A picture that misses the zone would otherwise replace the page.
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
  document.addEventListener("dragover", () => zone.classList.add("over"));
  document.addEventListener("dragleave", (event) => event.relatedTarget || zone.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    zone.classList.remove("over");
    choose(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length > 0) choose(event.clipboardData.files);
  });
  showSamples();
}

async function showSamples() {
  let found;
  try {
    found = (await samples()).samples;
  } catch {
    return; // The samples are a convenience; everything else works without them.
  }
  const items = found.map((sample) => {
    const url = address(sample.url);
    const image = el("img", { src: url, alt: "", width: 56, height: 56 });
    const button = el("button", { type: "button", class: "sample", title: sample.credit, click: load }, image, sample.title);
    async function load() {
      const content = await (await fetch(url)).blob();
      choose([new File([content], sample.name, { type: content.type })]);
    }
    return el("li", {}, button);
  });
  byId("samples").replaceChildren(...items);
}
