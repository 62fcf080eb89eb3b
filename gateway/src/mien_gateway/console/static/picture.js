// A picture with the faces, boxes and points that an answer names, drawn over it.

import { el, svg } from "./dom.js";
import { part, pointName, verdict } from "./faces.js";

/**
 * Return a figure that shows a picture and an answer.
 *
 * @param {HTMLElement} medium An image or a video; it gives the figure its size.
 * @param {{width: number, height: number}} size Of the picture in pixels, as the answer gives it.
 * @param {object[]} faces The faces of the answer that belong to the picture.
 * @param {object} options See `overlay`.
 */
export function figure(medium, size, faces, options = {}) {
  const frame = el("div", { class: "frame" }, medium, ...overlay(size, faces, options));
  frame.style.maxWidth = `calc(70vh * ${size.width / size.height})`;
  return el("figure", { class: "picture" }, frame);
}

/**
 * Return the elements to lay over a picture. They are decoration: lists and tables tell the same to screen readers.
 *
 * @param {object[]} options.ghosts Faces of another answer, whose points are drawn hollow and joined with these.
 * @param {boolean} options.mirror Whether the picture below is shown mirrored, as one's own camera is.
 */
export function overlay(size, faces, { ghosts = [], mirror = false } = {}) {
  const across = (x) => (mirror ? size.width - 1 - x : x);
  const shapes = [];
  const tags = [];
  faces.forEach((face, index) => {
    const group = svg("g", { class: "face", "data-face": index });
    if (face.box) {
      const { left, top, width, height, angle } = face.box;
      const x = mirror ? size.width - left - width : left;
      const transform = `rotate(${mirror ? -angle : angle} ${x + width / 2} ${top + height / 2})`;
      group.append(svg("rect", { class: "box", x, y: top, width, height, rx: width * 0.03, transform }));
      if (faces.length > 1 || mirror) tags.push(tag(size, x, top, faces.length > 1 ? index + 1 : null, face));
    }
    const radius = radiusOf(face, size);
    for (const [name, point] of Object.entries(face.keypoints ?? {})) {
      const old = ghosts[index]?.keypoints?.[name];
      if (old) group.append(ghost(old, point, radius));
      const at = { cx: across(point.x) + 0.5, cy: point.y + 0.5, r: radius };
      const title = svg("title", {}, `${pointName(name)} (${point.x.toFixed(1)}, ${point.y.toFixed(1)})`);
      group.append(svg("circle", { class: `point ${part(name)}`, ...at }, title));
    }
    shapes.push(group);
  });
  const viewBox = `0 0 ${size.width} ${size.height}`;
  return [svg("svg", { class: "overlay", viewBox, "aria-hidden": "true" }, ...shapes), ...tags];
}

function tag(size, x, y, number, face) {
  const { name } = verdict(face);
  const element = el("span", { class: "tag", "aria-hidden": "true" }, number === null ? name : `${number} · ${name}`);
  element.style.left = `${(x / size.width) * 100}%`;
  element.style.top = `${(Math.max(y, 0) / size.height) * 100}%`;
  return element;
}

function ghost(from, to, radius) {
  const line = { x1: from.x + 0.5, y1: from.y + 0.5, x2: to.x + 0.5, y2: to.y + 0.5 };
  return svg(
    "g",
    { class: "ghost" },
    svg("line", line),
    svg("circle", { cx: from.x + 0.5, cy: from.y + 0.5, r: radius }),
  );
}

function radiusOf(face, size) {
  return Math.max((face.box?.width ?? Math.min(size.width, size.height)) * 0.018, size.width * 0.0045);
}

/** Highlight one face of a figure, or none. */
export function highlight(figureElement, index) {
  for (const group of figureElement.querySelectorAll(".face")) {
    group.classList.toggle("chosen", Number(group.dataset.face) === index);
  }
}
