// Build elements from values, never from markup, so that no text can become markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Return an HTML element.
 *
 * @param {string} name The tag.
 * @param {object} properties Attributes; functions are listeners (`click: () => …`), false and null are left out.
 * @param {...(Node|string|number|null)} children Text is added as text.
 */
export function el(name, properties = {}, ...children) {
  return fill(document.createElement(name), properties, children);
}

/** Return an SVG element; the arguments are those of `el`. */
export function svg(name, properties = {}, ...children) {
  return fill(document.createElementNS(SVG, name), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return the element with an id. */
export function byId(id) {
  return document.getElementById(id);
}

/** Replace the content of an element if the data that it shows have changed, so that focus and selection stay. */
export function show(element, data, build) {
  const shown = JSON.stringify(data);
  if (element.mienShown === shown) return;
  element.mienShown = shown;
  element.replaceChildren(...[build(data)].flat().filter((child) => child !== null));
}

/** Return a table in a box that scrolls sideways on narrow screens. */
export function table(caption, columns, rows, properties = {}) {
  return el(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": caption },
    el(
      "table",
      properties,
      el("caption", { class: "unseen" }, caption),
      el("thead", {}, el("tr", {}, ...columns.map((column) => (column ? el("th", { scope: "col" }, column) : el("td"))))),
      el("tbody", {}, ...rows),
    ),
  );
}
