// The panel that shows a passage in its document, with what was cited marked.

import { ROOT, apiKey, documentPath, load } from "./api.js";
import { announce, byId, closePanel, h, marking, name, openPanel, sentence, titleOf, toUnits } from "./dom.js";
import { flowing, isMarkdown, markdown } from "./markdown.js";

let request = null;
let at = 0;

/**
 * Show where a passage stands; the marks are the spans of `citation`, or the passage itself.
 *
 * The document comes from the service. Where it cannot be had, or is not the one that was cited any
 * more, the passage alone is shown, from the answer.
 */
export async function showPassage(collection, passage, citation, opener) {
  request?.abort();
  request = new AbortController();
  const { signal } = request;
  const what = citation ?? passage;
  byId("passage-title").replaceChildren(name(titleOf(what)));
  byId("passage-facts").replaceChildren(...facts(collection, what, citation));
  byId("passage-marks").hidden = true;
  note("");
  const text = byId("passage-text");
  text.setAttribute("aria-busy", "true");
  const spans = spansOf(passage, citation);
  if (passage) fill(text, { of: passage, text: passage.text, start: passage.span[0], passage: passage.span, spans, inCode: passage.in_code });
  else text.replaceChildren(h("p", { class: "remark" }, "Loading…"));
  openPanel("passage", opener);
  at = 0;
  goto(at, false);

  try {
    const found = await load(documentPath(what.document_id, collection), { signal });
    if (stillHolds(found.text, passage, citation)) {
      fill(text, { of: found, text: found.text, start: 0, passage: passage?.span, spans, pages: found.pages ?? [] });
      byId("passage-facts").replaceChildren(...facts(collection, what, citation, found.pages));
    } else if (passage) {
      note("The document has changed since this answer. This is the passage the answer rests on.");
    } else {
      note("The document has changed since this answer; ask again to see where it stands now.");
      text.replaceChildren(...quoted(citation));
    }
  } catch (error) {
    if (signal.aborted) return;
    if (!passage) text.replaceChildren(...quoted(citation));
    note(error.code === "document_not_found"
      ? "The document is not in the collection any more. This is the passage the answer rests on."
      : "The whole document is not available here. This is the passage the answer rests on.");
  }
  text.removeAttribute("aria-busy");
  goto(at, false); // the reader may have gone on to another mark meanwhile
  announce(citation ? "Passage shown; what the answer cites is marked" : "Passage shown");
}

const spansOf = (passage, citation) => citation?.spans ?? [passage.span];

function facts(collection, what, citation, pages = []) {
  const { document_id: id, source } = what;
  const [start] = citation?.spans[0] ?? what.span;
  const page = pages.length ? pages.filter((begin) => begin <= start).length : what.page;
  return [
    citation && h("span", { class: "marker" }, String(citation.marker)),
    titleOf(what) !== id && h("span", { class: "id" }, name(id)),
    page && h("span", { class: "page-number" }, pages.length ? `page ${page}` : `from page ${page}`),
    source && source !== id && h("span", { class: "id" }, name(source)),
    link(collection, what, citation?.spans ?? [what.span]),
  ].filter(Boolean);
}

const quoted = (citation) => (isMarkdown(citation) ? flowing(citation.quote) : [citation.quote]);

/**
 * Where a document can be read by itself: at its own address, or at the place that is marked here. The
 * service shows it there without a key, or where the address is signed: a browser sends no key with a link.
 */
function link(collection, { document_id: id, url }, spans) {
  const original = /^https?:/.test(url ?? "") && URL.canParse(url) && !new URL(url).pathname.includes("/v1/documents/");
  const signed = URL.canParse(url ?? "") && new URL(url).searchParams.has("signature");
  if (!original && !signed && apiKey.get()) return null;
  const href = original || signed ? url : viewOf(collection, id, spans);
  return h("a", { href, target: "_blank", rel: "noopener" }, original ? `Open at ${new URL(url).host}` : "Open by itself");
}

function viewOf(collection, id, spans) {
  const [path, query] = documentPath(id, collection).split("?");
  const view = new URL(`${path}/view?${query}`, ROOT);
  for (const [start, end] of spans) {
    view.searchParams.append("start", start);
    view.searchParams.append("end", end);
  }
  return view.href;
}

/** Whether the document still says what was cited where it was cited. */
function stillHolds(text, passage, citation) {
  const [start, end] = citation?.spans[0] ?? passage.span;
  const [from, to] = toUnits(text, [start, end]);
  return text.slice(from, to) === (citation?.quote ?? passage.text);
}

/**
 * Write a text with marks. `of` says whether it is Markdown; `start` is where the text begins in its
 * document; `passage`, `spans` and `pages` are offsets in the document, in characters.
 */
function fill(element, { of, text, start, passage, spans, pages = [], inCode = false }) {
  const whole = spans[0] === passage; // nothing is cited: the mark is the passage
  const flat = [...(passage ?? []), ...spans.flat(), ...pages].map((offset) => Math.max(0, offset - start));
  const units = toUnits(text, flat);
  const take = (number) => units.splice(0, number);
  const [from, to] = passage ? take(2) : [0, 0];
  const places = spans.map(() => take(2)).sort((a, b) => a[0] - b[0]);
  const marks = places.map(([begin, end], at) => ({
    begin, end, make: (piece) => h("mark", { class: whole && "whole", "data-mark": at }, piece),
  }));
  const inside = { begin: from, end: to, make: (piece) => h("span", { class: "passage" }, piece) };
  const leaf = marking([...marks, inside], text);
  const formatted = isMarkdown(of);
  element.classList.toggle("formatted", formatted);
  element.replaceChildren(...(formatted ? markdown(text, { leaf, inCode }) : paged(leaf, text, units)));
}

/** A plain text, with a line where each page begins. */
function paged(leaf, text, breaks) {
  const cuts = [0, ...breaks.filter((at) => at > 0), text.length];
  return cuts.slice(1).flatMap((end, at) => [
    breaks.includes(cuts[at]) && h("span", { class: "page-break", "data-page": `Page ${breaks.indexOf(cuts[at]) + 1}` }),
    ...leaf(cuts[at], end),
  ]).filter(Boolean);
}

function note(text) {
  byId("passage-note").textContent = text;
  byId("passage-note").hidden = !text;
}

/** Go to a mark; one that goes over several cells or lines has an element in each. */
function goto(index, say = true) {
  const panel = byId("passage-text");
  const all = [...panel.querySelectorAll("mark")];
  const marks = [...new Set(all.map((one) => one.dataset.mark))];
  byId("passage-marks").hidden = marks.length < 2;
  if (!marks.length) return;
  at = (index + marks.length) % marks.length;
  byId("passage-position").textContent = `${at + 1} of ${marks.length}`;
  for (const one of all) one.classList.toggle("current", marks.length > 1 && one.dataset.mark === marks[at]);
  const mark = all.find((one) => one.dataset.mark === marks[at]).getBoundingClientRect();
  const frame = panel.getBoundingClientRect();
  panel.scrollTop += mark.top - frame.top - Math.max(24, (frame.height - mark.height) / 3);
  if (say) announce(`Mark ${at + 1} of ${marks.length}`);
}

byId("passage-previous").addEventListener("click", () => goto(at - 1));
byId("passage-next").addEventListener("click", () => goto(at + 1));
byId("passage-close").addEventListener("click", closePanel);

/** Show a whole document, without a mark. */
export async function showDocument(collection, info, opener) {
  request?.abort();
  request = new AbortController();
  byId("passage-title").replaceChildren(name(titleOf(info)));
  byId("passage-facts").replaceChildren(h("span", { class: "id" }, name(info.document_id)));
  byId("passage-marks").hidden = true;
  note("");
  const text = byId("passage-text");
  text.replaceChildren(h("p", { class: "remark" }, "Loading…"));
  openPanel("passage", opener);
  try {
    const found = await load(documentPath(info.document_id, collection), { signal: request.signal });
    fill(text, { of: found, text: found.text, start: 0, spans: [], pages: found.pages ?? [] });
    text.scrollTop = 0;
    announce("Document shown");
  } catch (error) {
    if (error.name === "AbortError") return;
    text.replaceChildren();
    note(error.message ? sentence(error.message) : "The document cannot be shown here.");
  }
}
