// Builds the page. Text goes in as text: what documents, models and services say is never markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element: properties and attributes from `props` (`on*` are listeners), then children.
 * There is no way to pass markup.
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** An icon of the sprite in index.html; decoration only. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A name from outside, kept from turning the text around it when it is right-to-left. */
export const name = (text) => h("bdi", {}, text);

/** What to call a document: its title, or its id where the title says nothing. */
export const titleOf = ({ title, document_id: id }) => (title && !/^untitled$/i.test(title.trim()) ? title : id);

export const byId = (id) => document.getElementById(id);

export const count = (number, one, many = `${one}s`) =>
  `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** What the service says, as a sentence: it may begin small and end without a stop. */
export function sentence(text) {
  const begun = /^[a-z]+[ ,]/.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
  return /[\p{L}\p{N})'"”’]$/u.test(begun) ? `${begun}.` : begun;
}

/** Milliseconds as a person reads them. */
export function duration(ms) {
  if (ms >= 10000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 10) return `${ms.toFixed(0)} ms`;
  return `${ms.toFixed(1)} ms`;
}

let announced = 0;

/** Tell a screen reader, politely; only the newest text counts. */
export function announce(text) {
  const status = byId("status");
  announced += 1;
  // the same text twice is news the second time
  status.textContent = announced % 2 ? text : `${text}\u00a0`;
}

/** Ask in a dialog; resolves to whether the person agreed. Focus returns by itself. */
export function confirm({ title, text, action }) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = action;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

/**
 * Turn offsets in characters (code points, as the service counts) into offsets in a string of this
 * language (UTF-16 units).
 */
export function toUnits(text, offsets) {
  if (!/[\ud800-\udbff]/.test(text)) return offsets;
  const units = new Map();
  const wanted = [...new Set(offsets)].sort((a, b) => a - b);
  let characters = 0;
  let unit = 0;
  for (const offset of wanted) {
    while (characters < offset && unit < text.length) {
      unit += text.codePointAt(unit) > 0xffff ? 2 : 1;
      characters += 1;
    }
    units.set(offset, unit);
  }
  return offsets.map((offset) => units.get(offset));
}

/**
 * Returns `leaf(begin, end)`: the text between two offsets, cut where a mark begins or ends. Each mark is
 * {begin, end, make}; the first one that covers a piece makes its element.
 */
export function marking(marks, text) {
  const cuts = [...new Set(marks.flatMap(({ begin, end }) => [begin, end]))].sort((a, b) => a - b);
  return (begin, end) => {
    const places = [begin, ...cuts.filter((cut) => begin < cut && cut < end), end];
    return places.slice(1).map((to, at) => {
      const from = places[at];
      const piece = text.slice(from, to);
      const mark = from < to && marks.find((one) => one.begin <= from && to <= one.end);
      return mark ? mark.make(piece) : piece;
    });
  };
}

/** Page a passage begins on, when its document has pages. */
export const pageOf = ({ page }) =>
  page === null || page === undefined ? null : h("span", { class: "page" }, `from page ${page}`);

const narrow = matchMedia("(max-width: 60rem)");
let opened = null; // {panel, opener}

/** Show a side panel in place of another; `opener` gets the focus back when it is closed. */
export function openPanel(id, opener) {
  const from = opened?.panel.contains(opener) ? opened.opener : opener;
  if (opened && opened.panel.id !== id) hidePanel();
  opened = { panel: byId(id), opener: from };
  opened.panel.hidden = false;
  fitPanel();
  toggles(id, true);
  byId(`${id}-title`).focus({ preventScroll: true });
}

/** Close the side panel; returns whether one was open. */
export function closePanel() {
  if (!opened) return false;
  const { opener } = opened;
  hidePanel();
  if (opener?.isConnected && opener.offsetParent) opener.focus({ preventScroll: true });
  else byId("question").focus({ preventScroll: true });
  return true;
}

function hidePanel() {
  opened.panel.hidden = true;
  toggles(opened.panel.id, false);
  opened = null;
  fitPanel();
}

function toggles(id, expanded) {
  for (const button of document.querySelectorAll(`[aria-expanded][aria-controls="${id}"]`)) {
    button.setAttribute("aria-expanded", String(expanded));
  }
}

// On a narrow screen the panel covers the page, so the page below is out of reach.
function fitPanel() {
  document.body.classList.toggle("with-panel", Boolean(opened));
  for (const id of ["top", "main"]) byId(id).inert = Boolean(opened) && narrow.matches;
}
narrow.addEventListener("change", fitPanel);
