// Try: pictures in, faces out, and the request as code.

import { analyze } from "./api.js";
import { byId, el } from "./dom.js";
import { faceCard } from "./facecard.js";
import { summary, versionText } from "./faces.js";
import { onOptions, options } from "./options.js";
import { figure, highlight } from "./picture.js";
import { current, onChange } from "./pictures.js";
import { Question } from "./question.js";
import { showSnippets } from "./snippets.js";

const question = new Question("try-status", read, refuse);

/** Connect Try to the pictures and options; `isShown` says whether the user sees it. */
export function connectTry(isShown) {
  const update = () => {
    showSnippets(current().map(({ file }) => file), options());
    question.renew();
    if (isShown()) run();
  };
  onChange(update);
  onOptions(update);
  update();
}

/** Ask about the current pictures if the answer is not shown yet. A request that is under way is cancelled. */
export function run() {
  return question.ask();
}

async function read(pictures, signal) {
  byId("try").setAttribute("aria-busy", "true");
  const began = performance.now();
  try {
    const answer = await analyze(pictures.map(({ file }) => file), options(), signal);
    const milliseconds = performance.now() - began;
    byId("readings").replaceChildren(...pictures.map((picture, index) => reading(picture, index, answer)));
    byId("answer").textContent = JSON.stringify(answer, null, 2);
    byId("raw").hidden = false;
    return `${summary(answer.faces)} ${Math.round(milliseconds)} ms, ${versionText(answer.versions, answer.labels)}.`;
  } finally {
    if (!signal.aborted) byId("try").removeAttribute("aria-busy");
  }
}

function refuse(pictures, problem) {
  byId("readings").replaceChildren(...pictures.map(({ file, url }) => unread(file, url)));
  byId("raw").hidden = true;
  return problem.message + (problem.retryable ? " Trying again may help." : "");
}

function reading({ file, url }, index, answer) {
  const faces = answer.faces.filter((face) => face.picture === index);
  const image = el("img", { src: url, alt: `${file.name}: ${summary(faces)}` });
  const shown = figure(image, answer.pictures[index], faces);
  shown.append(el("figcaption", {}, `${file.name} · ${answer.pictures[index].width} × ${answer.pictures[index].height}`));
  const cards = faces.map((face, number) => {
    const card = faceCard(face, faces.length > 1 ? `Face ${number + 1}: ` : "");
    card.addEventListener("pointerenter", () => highlight(shown, number));
    card.addEventListener("pointerleave", () => highlight(shown, null));
    card.addEventListener("focusin", () => highlight(shown, number));
    card.addEventListener("focusout", () => highlight(shown, null));
    return card;
  });
  if (cards.length === 0) cards.push(noFace());
  return el("article", { class: "reading", "aria-label": file.name }, shown, el("div", { class: "cards" }, ...cards));
}

function noFace() {
  const advice = "If the picture is a face that fills the frame, set “Find faces” to “never” in the options.";
  return el("div", { class: "card" }, el("h2", {}, "No face was found"), el("p", { class: "quiet" }, advice));
}

function unread(file, url) {
  const image = el("img", { src: url, alt: file.name, error: ({ target }) => target.remove() });
  return el("article", { class: "reading" }, el("figure", { class: "picture unread" }, image, el("figcaption", {}, file.name)));
}
