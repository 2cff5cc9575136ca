// Markdown to elements, each text with its place in the source, so that marks stand where they belong.
//
// Reads what documents and models write of CommonMark, with tables; HTML stays text, images are their
// description. A library would make one string of markup, without places.

import { h } from "./dom.js";

const LIMIT = 400_000; // characters; a longer text is shown as it is
const DEPTH = 12; // of nested quotes, lists and emphasis; deeper ones are text
const REACH = 2000; // characters between the two ends of an emphasis, code or link
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+|$)/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+•]|\d{1,9}[.)])(?:([ \t]+)(?=\S)|[ \t]*$)/;
const DASHES = /^[ \t]*\|?(?:[ \t]*:?-+:?[ \t]*\|)*[ \t]*:?-+:?[ \t]*\|?[ \t]*$/;
const ROW = /^[ \t]*\|.*\|[ \t]*$/;
const INLINE = new Set(["MARK", "STRONG", "EM", "CODE", "DEL", "SPAN", "BUTTON"]);

/** Whether a document, passage or citation is Markdown: its media type, else the name of its file. */
export const isMarkdown = ({ content_type: type, source, document_id: id }) =>
  type ? type === "text/markdown" : /\.(md|mdx|markdown)$/i.test(source || id || "");

/**
 * The elements of a Markdown text.
 *
 * `leaf(begin, end)` makes the nodes of the source between two offsets (UTF-16 units); without it, text.
 * `inCode`: the text begins inside a fenced block of code.
 */
export function markdown(text, { leaf = (begin, end) => [text.slice(begin, end)], inCode = false } = {}) {
  if (text.length > LIMIT) return [h("pre", {}, leaf(0, text.length))];
  const reader = new Reader(text, leaf);
  return inCode ? reader.fromCode() : reader.all();
}

/** The same in one line, without links and blocks: for cards, labels and what is cut after some lines. */
export function flowing(text, options) {
  return flatten(markdown(text, options));
}

function flatten(nodes) {
  return nodes.flatMap((node) => {
    if (node.nodeType !== Node.ELEMENT_NODE) return [node];
    if (INLINE.has(node.tagName)) return [node];
    if (node.tagName === "BR") return [" "];
    const inside = flatten([...node.childNodes]);
    if (node.tagName === "A") return inside;
    if (/^T[HD]$/.test(node.tagName) && node.nextElementSibling) return [...inside, " · "];
    return [...inside, " "];
  });
}

class Reader {
  #heading = 0; // level of the last heading

  constructor(text, leaf) {
    this.text = text;
    this.leaf = leaf;
  }

  all() {
    const lines = linesOf(this.text);
    const front = frontMatter(this.text);
    if (!front) return this.#blocks(lines, 0);
    const rest = lines.filter(({ begin }) => begin >= front);
    return [h("pre", { class: "front" }, this.leaf(0, front)), ...this.#blocks(rest, 0)];
  }

  fromCode() {
    const lines = linesOf(this.text);
    const end = lines.findIndex((line) => FENCE.test(this.#of(line)));
    const code = end < 0 ? lines : lines.slice(0, end);
    return [this.#code(code), ...(end < 0 ? [] : this.#blocks(lines.slice(end + 1), 0))];
  }

  #of({ begin, end }) {
    return this.text.slice(begin, end);
  }

  #blocks(lines, depth) {
    const made = [];
    for (let at = 0; at < lines.length; ) {
      const [node, next] = this.#block(lines, at, depth);
      if (node) made.push(node);
      at = next;
    }
    return made;
  }

  /** The block that begins at a line, and the line after it. */
  #block(lines, at, depth) {
    const line = this.#of(lines[at]);
    if (!line.trim()) return [null, at + 1];
    const fence = FENCE.exec(line);
    if (fence) return this.#fenced(lines, at, fence[1]);
    const heading = HEADING.exec(line);
    if (heading) return [this.#headed(heading[1].length, [this.#trimmed(lines[at], heading[0].length)]), at + 1];
    if (RULE.test(line)) return [h("hr"), at + 1];
    if (this.#isTable(lines, at)) return this.#table(lines, at);
    if (depth < DEPTH && QUOTE.test(line)) return this.#quote(lines, at, depth);
    if (depth < DEPTH && ITEM.test(line)) return this.#list(lines, at, depth);
    if (/^(?: {4}|\t)/.test(line)) return this.#indented(lines, at);
    return this.#paragraph(lines, at, depth);
  }

  #fenced(lines, at, fence) {
    const closing = new RegExp(`^ {0,3}${fence[0] === "`" ? "`" : "~"}{${fence.length},}[ \\t]*$`);
    let end = at + 1;
    while (end < lines.length && !closing.test(this.#of(lines[end]))) end += 1;
    return [this.#code(lines.slice(at + 1, end)), end + 1];
  }

  #indented(lines, at) {
    let end = at + 1;
    while (end < lines.length && /^(?: {4}|\t)|^\s*$/.test(this.#of(lines[end]))) end += 1;
    while (!this.#of(lines[end - 1]).trim()) end -= 1;
    return [this.#code(lines.slice(at, end), 4), end];
  }

  #code(lines, indent = 0) {
    const nodes = lines.flatMap((line, at) => {
      const cut = Math.min(indent, /^[ \t]*/.exec(this.#of(line))[0].length);
      return [at ? "\n" : "", ...this.leaf(line.begin + cut, line.end)];
    });
    return h("pre", {}, h("code", {}, nodes));
  }

  /** A heading, at most one level below the one before it: readers of a screen go by levels. */
  #headed(level, lines) {
    const inside = this.#inline(lines);
    if (!inside.length) return null;
    this.#heading = Math.min(level, this.#heading + 1);
    return h(`h${Math.min(6, this.#heading + 2)}`, {}, inside);
  }

  #trimmed(line, cut) {
    const begin = line.begin + cut;
    const rest = this.text.slice(begin, line.end);
    return { begin, end: begin + rest.replace(/[ \t]+#+[ \t]*$|^#+[ \t]*$|[ \t]+$/, "").length };
  }

  #isTable(lines, at) {
    const line = this.#of(lines[at]);
    if (!line.includes("|")) return false;
    const below = at + 1 < lines.length ? this.#of(lines[at + 1]) : "";
    if (below.includes("|") && DASHES.test(below)) return cells(line).length === cells(below).length;
    return ROW.test(line) && cells(line).length > 1; // rows of a table that begins elsewhere
  }

  #table(lines, at) {
    const rows = [];
    let end = at;
    while (end < lines.length && this.#of(lines[end]).includes("|") && this.#of(lines[end]).trim()) end += 1;
    let head = false;
    for (const [number, line] of lines.slice(at, end).entries()) {
      if (DASHES.test(this.#of(line))) head ||= number === 1;
      else rows.push(cells(this.#of(line)).map(([from, to]) => this.#inline([{ begin: line.begin + from, end: line.begin + to }])));
    }
    const row = (tag) => (one) => h("tr", {}, one.map((cell) => h(tag, { scope: tag === "th" && "col" }, cell)));
    const table = h("table", {}, head && h("thead", {}, rows.splice(0, 1).map(row("th"))), h("tbody", {}, rows.map(row("td"))));
    return [h("div", { class: "table", tabindex: "0", role: "region", "aria-label": "Table" }, table), end];
  }

  #quote(lines, at, depth) {
    const inside = [];
    let end = at;
    for (; end < lines.length; end += 1) {
      const [mark] = QUOTE.exec(this.#of(lines[end])) ?? [];
      if (mark === undefined) break;
      inside.push({ begin: lines[end].begin + mark.length, end: lines[end].end });
    }
    return [h("blockquote", {}, this.#blocks(inside, depth + 1)), end];
  }

  #list(lines, at, depth) {
    const [, , first] = ITEM.exec(this.#of(lines[at]));
    const ordered = /\d/.test(first);
    const list = h(ordered ? "ol" : "ul", { start: ordered && first !== "1." && Number.parseInt(first, 10) });
    let end = at;
    while (end < lines.length) {
      const [all, indent, mark] = ITEM.exec(this.#of(lines[end])) ?? [];
      if (!mark || /\d/.test(mark) !== ordered || RULE.test(this.#of(lines[end]))) break;
      const width = all.length - indent.length > mark.length + 4 ? indent.length + mark.length + 1 : all.length;
      const inside = [{ begin: lines[end].begin + Math.min(width, all.length), end: lines[end].end }];
      end = this.#item(lines, end + 1, indent.length + 2, inside);
      list.append(h("li", {}, this.#tight(this.#blocks(inside, depth + 1))));
    }
    return [list, end];
  }

  /** Take the lines that belong to an item: indented ones, and the rest of its paragraph. */
  #item(lines, at, indent, inside) {
    let end = at;
    for (; end < lines.length; end += 1) {
      const line = this.#of(lines[end]);
      const space = /^ */.exec(line)[0].length;
      const blank = !line.trim();
      if (blank) {
        const after = lines.slice(end).find((one) => this.#of(one).trim());
        if (!after || /^ */.exec(this.#of(after))[0].length < indent) {
          return after && ITEM.test(this.#of(after)) ? lines.indexOf(after) : end;
        }
      } else if (space < indent && (ITEM.test(line) || this.#interrupts(line) || !this.#of(lines[end - 1]).trim())) {
        break;
      }
      inside.push({ begin: lines[end].begin + Math.min(space, indent), end: lines[end].end });
    }
    return end;
  }

  /** An item that begins with a paragraph needs none: its words stand beside its mark. */
  #tight(blocks) {
    return blocks[0]?.tagName === "P" ? [...blocks[0].childNodes, ...blocks.slice(1)] : blocks;
  }

  #interrupts(line) {
    return [FENCE, HEADING, RULE, QUOTE].some((pattern) => pattern.test(line)) || ROW.test(line);
  }

  #paragraph(lines, at, depth) {
    let end = at + 1;
    for (; end < lines.length; end += 1) {
      const line = this.#of(lines[end]);
      const underline = UNDERLINE.exec(line);
      if (underline) return [this.#headed(underline[1][0] === "=" ? 1 : 2, lines.slice(at, end)), end + 1];
      if (!line.trim() || this.#interrupts(line) || this.#isTable(lines, end)) break;
      if (depth < DEPTH && ITEM.test(line)) break;
    }
    return [h("p", {}, this.#inline(lines.slice(at, end).map((line) => this.#withoutIndent(line)))), end];
  }

  #withoutIndent({ begin, end }) {
    return { begin: begin + /^\s*/.exec(this.text.slice(begin, end))[0].length, end };
  }

  #inline(lines) {
    const text = lines.map((line) => this.#of(line)).join("\n");
    const places = [];
    for (const { begin, end } of lines) {
      for (let place = begin; place <= end; place += 1) places.push(place);
    }
    return new Inline(text, places, this.leaf).nodes(0, text.length, 0);
  }
}

/** Emphasis, code and links in a paragraph; `places` has the offset of each of its units. */
class Inline {
  constructor(text, places, leaf) {
    this.text = text;
    this.places = places;
    this.leaf = leaf;
  }

  nodes(begin, end, depth) {
    const made = [];
    let plain = begin;
    for (let at = begin; at < end; ) {
      const found = /[\\`*_~![<\n]/.test(this.text[at]) && depth < DEPTH ? this.#at(at, end, depth) : null;
      if (!found) {
        at += 1;
        continue;
      }
      made.push(...this.#leaves(plain, at), ...found.nodes);
      at = plain = found.next;
    }
    return [...made, ...this.#leaves(plain, end)];
  }

  /** Nodes of a stretch that may go over the ends of lines, which are not next to each other in the source. */
  #leaves(begin, end) {
    const made = [];
    for (let from = begin; from < end; ) {
      let to = from + 1;
      while (to < end && this.places[to] === this.places[to - 1] + 1) to += 1;
      made.push(...this.leaf(this.places[from], this.places[to - 1] + 1));
      from = to;
    }
    return made;
  }

  #at(at, end, depth) {
    const rest = this.text.slice(at, Math.min(end, at + REACH));
    switch (rest[0]) {
      case "\\":
        if (rest[1] === "\n") return { nodes: [h("br")], next: at + 2 };
        return /^\\[!-/:-@[-`{-~]/.test(rest) ? { nodes: this.#leaves(at + 1, at + 2), next: at + 2 } : null;
      case "`":
        return this.#code(at, rest);
      case "\n":
        return / {2}$/.test(this.text.slice(Math.max(0, at - 2), at)) ? { nodes: [h("br")], next: at + 1 } : null;
      case "<":
        return this.#angle(at, rest, depth);
      case "!":
      case "[":
        return this.#link(at, rest, depth);
      default:
        return this.#emphasis(at, rest, depth);
    }
  }

  #code(at, rest) {
    const [ticks] = /^`+/.exec(rest);
    const close = new RegExp(`(?<!\`)${ticks}(?!\`)`).exec(rest.slice(ticks.length));
    if (!close) return { nodes: this.#leaves(at, at + ticks.length), next: at + ticks.length };
    const inside = rest.slice(ticks.length, ticks.length + close.index);
    const pad = /^ .*[^ ].* $/s.test(inside) ? 1 : 0;
    const begin = at + ticks.length;
    const end = begin + close.index;
    return { nodes: [h("code", {}, this.#leaves(begin + pad, end - pad))], next: end + ticks.length };
  }

  #angle(at, rest, depth) {
    const line = /^<br *\/?>/i.exec(rest);
    if (line) return { nodes: [h("br")], next: at + line[0].length };
    const [all, address] = /^<(https?:\/\/[^\s<>]+)>/.exec(rest) ?? [];
    return all ? { nodes: [anchor(address, this.nodes(at + 1, at + all.length - 1, DEPTH))], next: at + all.length } : null;
  }

  #link(at, rest, depth) {
    const [all, image, label, address] =
      /^(!?)\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/.exec(rest) ?? [];
    if (!all || !label.trim() || /^[\d,\s]+$/.test(label)) return null; // a number is a source
    const begin = at + image.length + 1;
    const inside = this.nodes(begin, begin + label.length, depth + 1);
    return { nodes: image ? inside : [anchor(address, inside)].flat(), next: at + all.length };
  }

  #emphasis(at, rest, depth) {
    const [mark] = /^(?:\*{1,3}|_{1,3}|~~)/.exec(rest) ?? [];
    const opens = mark && /^\S/.test(rest.slice(mark.length)) && rest[mark.length] !== mark[0];
    if (!opens || (mark[0] === "_" && /[\p{L}\p{N}_]/u.test(this.text[at - 1] ?? ""))) return null;
    for (let close = rest.indexOf(mark, mark.length + 1); close > 0; close = rest.indexOf(mark, close + 1)) {
      const after = rest[close + mark.length] ?? "";
      if (/\s/.test(rest[close - 1]) || rest[close - 1] === "\\") continue;
      if (mark.length === 1 && (after === mark || rest[close - 1] === mark)) continue;
      if (mark[0] === "_" && /[\p{L}\p{N}_]/u.test(after)) continue;
      const inside = this.nodes(at + mark.length, at + close, depth + 1);
      return { nodes: [emphasized(mark, inside)], next: at + close + mark.length };
    }
    return null;
  }
}

function emphasized(mark, inside) {
  if (mark === "~~") return h("del", {}, inside);
  if (mark.length === 3) return h("em", {}, h("strong", {}, inside));
  return h(mark.length === 2 ? "strong" : "em", {}, inside);
}

/** A link that leads to the web says where; any other one is its words: the page has no such files. */
function anchor(address, inside) {
  let url;
  try {
    url = new URL(address);
  } catch {
    return inside;
  }
  if (!/^https?:$/.test(url.protocol)) return inside;
  const link = h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow" }, inside);
  return link.textContent.includes(url.host) ? link : [link, h("span", { class: "host" }, ` (${url.host})`)];
}

function linesOf(text) {
  const lines = [];
  for (let begin = 0; begin <= text.length; ) {
    const found = text.indexOf("\n", begin);
    const end = found < 0 ? text.length : found;
    lines.push({ begin, end: text[end - 1] === "\r" && end > begin ? end - 1 : end });
    begin = end + 1;
  }
  return lines;
}

/** Where the fields at the top of a document end; 0 where there are none. */
function frontMatter(text) {
  const [all] = /^---[ \t]*\r?\n(?:[^\n]*\n){0,200}?---[ \t]*(?:\r?\n|$)/.exec(text) ?? [];
  return all && /^[\w-]+:/m.test(all) ? all.length : 0;
}

/** Begin and end of each cell of a row, without the space around it; a bar in code or after \ is text. */
function cells(line) {
  const bars = [];
  let code = false;
  for (let at = 0; at < line.length; at += 1) {
    if (line[at] === "\\") at += 1;
    else if (line[at] === "`") code = !code && line.includes("`", at + 1);
    else if (line[at] === "|" && !code) bars.push(at);
  }
  const edges = [-1, ...bars, line.length];
  const found = edges.slice(1).map((end, at) => {
    const begin = edges[at] + 1;
    const inside = line.slice(begin, end);
    return [begin + inside.length - inside.trimStart().length, begin + inside.trimEnd().length];
  });
  if (/^[ \t]*\|/.test(line)) found.shift();
  if (/\|[ \t]*$/.test(line) && found.length) found.pop();
  return found.map(([begin, end]) => [Math.min(begin, end), end]);
}
