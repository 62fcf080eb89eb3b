// The Markdown that model cards use: headings, paragraphs, lists, tables, emphasis, code, links. Text never becomes markup.

import { el } from "./dom.js";

const INLINE = /`([^`]+)`|\*\*(.+?)\*\*|\*(.+?)\*|\[([^\]]+)\]\(([^)\s]+)\)/;

/** Return elements for a Markdown text. */
export function markdown(text) {
  const blocks = text.replaceAll("\r", "").split(/\n\s*\n/).map((block) => block.trim());
  return blocks.filter(Boolean).map(block);
}

function block(text) {
  const heading = /^(#{1,6})\s+(.*)$/.exec(text.split("\n")[0]);
  if (heading) {
    // The dialog's title is the heading above.
    const title = el(`h${Math.min(heading[1].length + 2, 6)}`, {}, ...inline(heading[2]));
    const rest = text.split("\n").slice(1).join("\n").trim();
    return rest ? el("div", {}, title, block(rest)) : title;
  }
  if (text.startsWith("|")) return tableBlock(text.split("\n"));
  if (/^[-*] /.test(text)) {
    const items = text.split(/\n(?=[-*] )/).map((item) => el("li", {}, ...inline(item.slice(2).replaceAll(/\s+/g, " "))));
    return el("ul", {}, ...items);
  }
  return el("p", {}, ...inline(text.replaceAll(/\s+/g, " ")));
}

function tableBlock(lines) {
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const [head, , ...body] = lines;
  const titles = cells(head);
  const header = el("thead", {}, el("tr", {}, ...titles.map((cell) => el("th", { scope: "col" }, ...inline(cell)))));
  const rows = body.map((line) => el("tr", {}, ...cells(line).map((cell) => el("td", {}, ...inline(cell)))));
  const table = el("table", {}, titles.some(Boolean) ? header : null, el("tbody", {}, ...rows));
  return el("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Table" }, table);
}

function inline(text) {
  const found = INLINE.exec(text);
  if (!found) return text ? [text] : [];
  const [whole, code, bold, italic, label, target] = found;
  const before = text.slice(0, found.index);
  const after = inline(text.slice(found.index + whole.length));
  return [...(before ? [before] : []), piece(code, bold, italic, label, target), ...after];
}

function piece(code, bold, italic, label, target) {
  if (code) return el("code", {}, code);
  if (bold) return el("strong", {}, ...inline(bold));
  if (italic) return el("em", {}, ...inline(italic));
  // Only addresses of the web: links into the repository lead nowhere from here.
  return /^https?:\/\//.test(target) ? el("a", { href: target, rel: "noreferrer" }, label) : label;
}
