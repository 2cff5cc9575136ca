// One question and its answer on the page.

import { explain } from "./api.js";
import { details } from "./details.js";
import { announce, count, h, icon, marking, name, pageOf, sentence, titleOf, toUnits } from "./dom.js";
import { Feedback } from "./feedback.js";
import { flowing, isMarkdown, markdown } from "./markdown.js";

const LEFT_OUT = {
  near_duplicate: "not used: nearly the same as another",
  token_budget: "not used: no room in the prompt",
  empty: "not used: empty",
};
// By what a warning begins with; the others are for whoever runs the service, and stand under "Details".
const WARNINGS = {
  no_citations: () => "The model's answer named no source.",
  repetition: () => "The model repeated itself, so its answer was cut off.",
  context_truncated: () => "Not all of the passages found could be read for this answer.",
  answer_shortened: () => "The answer had little room and may be shorter than it should be.",
  span_mismatch: () => "One source could not be found again word for word.",
  part_unanswered: (part) => `Nothing was found about “${part}”.`,
  degraded: (_, { llm_generated: written }) =>
    written ? "The passages could not be sorted by relevance." : "The language model failed; these are sentences of your documents instead.",
  history_shortened: () => "The beginning of this conversation was left out.",
};
const MARKERS = /\s*\[\d+(?:\s*,\s*\d+)*\]/g;
const LEAD = 90; // characters shown before what is cited
let turns = 0;

/** What the page shows of a question: grows while it is answered, then holds the answer. */
export class Turn {
  response = null; // with sources numbered as they appear
  given = null; // as the service gave it
  messages = []; // what was said before
  #text = "";
  #frame = 0;
  #results = [];
  #actions;

  /** `actions.show(passage, citation, button)` opens a passage; `actions.again()` asks again. */
  constructor(query, collection, actions) {
    turns += 1;
    this.query = query;
    this.collection = collection;
    this.#actions = actions;
    const id = `turn-${turns}`;
    this.question = h("h2", { id, class: "question", dir: "auto" }, query);
    this.state = h("p", { class: "state" }, h("span", { class: "pulse" }), h("span", {}, "Looking for an answer…"));
    this.also = h("div", {});
    this.answer = h("div", { class: "answer", dir: "auto", "aria-busy": "true" });
    this.more = h("div", { class: "more" });
    this.found = h("div", {});
    this.details = h("div", {});
    this.foot = h("div", { class: "row turn-foot" });
    this.rating = h("div", {});
    this.element = h(
      "article",
      { class: "turn", "aria-labelledby": id },
      ...[this.question, this.also, this.answer, this.state, this.more, this.found, this.details, this.foot, this.rating],
    );
  }

  /** Retrieval is done. */
  searched({ results, search_queries: queries = [] }) {
    this.#results = results;
    this.#showQueries(queries);
    this.#say(`Found ${count(results.length, "passage")}; writing the answer…`);
    announce(`${count(results.length, "passage")} found`);
    this.#showFound();
  }

  /** A piece of the answer, not verified yet. */
  wrote(piece) {
    this.#text += piece;
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.answer.textContent = this.#text;
    });
  }

  /** A source was verified; the answer itself follows. */
  cited() {
    this.#say("Checking sources…");
  }

  /** The answer is complete; it replaces what was streamed. */
  finish(given) {
    this.#complete(given);
    const { answerable, answer } = this.response;
    announce(`${answerable ? "Answer:" : `${this.#without()[0]}.`} ${answer}`);
  }

  /** Show a turn of before, as `saved` gave it. */
  restore({ given, messages = [] }) {
    this.messages = messages;
    if (given) {
      this.#complete(given);
    } else {
      this.#settle();
      this.more.append(h("p", { class: "remark" }, "This was not answered."));
      this.#showFoot(true);
    }
  }

  /** What `restore` needs. */
  saved() {
    return { query: this.query, collection: this.collection, given: this.given, messages: this.messages };
  }

  #complete(given) {
    this.given = given;
    this.response = numbered(given);
    this.#settle();
    if (!this.#results.length) this.#results = given.contexts;
    if (given.answerable) this.#showAnswer();
    else this.#showNoContext();
    this.#showQueries(given.search_queries ?? []);
    this.more.append(...this.#notes());
    this.#showFound();
    this.details.replaceChildren(details(this.response, this.#results, this.#forOperators()));
    this.#showFoot();
  }

  /** How a follow-up was understood; and the parts of a question that were searched by themselves. */
  #showQueries(queries) {
    const [first, ...parts] = this.messages.length && !this.query.includes(queries[0]?.replace(/\?$/, "")) ? queries : ["", ...queries];
    this.also.replaceChildren(
      ...(first ? [h("p", { class: "origin understood", dir: "auto" }, "Understood as: ", h("q", {}, first))] : []),
      ...(parts.length ? [h("p", { class: "origin", dir: "auto" }, "Also searched: ", parts.map((one, at) => [at ? ", " : "", h("q", {}, one)]))] : []),
    );
  }

  /** There is no answer. */
  fail(error) {
    this.#settle();
    this.#keepDraft("This was not finished, and its sources were not checked.");
    this.more.append(problem(error));
    this.#showFoot(true);
  }

  /** The person stopped it. */
  stop() {
    this.#settle();
    this.#keepDraft("You stopped this; its sources were not checked.");
    if (!this.#text) this.more.append(h("p", { class: "remark" }, "Stopped."));
    this.#showFoot(true);
    announce("Stopped");
  }

  #say(text) {
    this.state.lastChild.textContent = text;
  }

  #settle() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    this.state.remove();
    this.answer.removeAttribute("aria-busy");
  }

  #keepDraft(remark) {
    this.answer.textContent = this.#text;
    if (!this.#text) return;
    this.answer.classList.add("draft");
    this.more.append(h("p", { class: "remark" }, remark));
  }

  #passage(chunkId) {
    const all = [...(this.response?.contexts ?? []), ...this.#results];
    return all.find((passage) => passage.chunk_id === chunkId);
  }

  #show(passage, citation, button) {
    this.#actions.show(passage ?? this.#passage(citation.chunk_id), citation, button);
  }

  #showAnswer() {
    const { answer, citations } = this.response;
    this.answer.replaceChildren(...markdown(answer).map((block) => this.#withCitations(block)));
    if (citations.length) this.more.append(this.#sources());
  }

  /** Why there is no answer from the documents, and what to do next. */
  #without() {
    if (this.response.finish_reason === "filtered")
      return ["Withheld", "Ask otherwise, or read the passages below."];
    return ["Not in your documents", this.response.llm_generated
      ? "What is said above does not come from your documents."
      : "Try other words, another collection, or add a document about it."];
  }

  #showNoContext() {
    const [title, next] = this.#without();
    this.element.classList.add("without-context");
    this.answer.replaceChildren(
      h(
        "div",
        { class: "no-context" },
        icon("missing"),
        h(
          "div",
          {},
          h("h3", {}, title),
          ...markdown(this.response.answer),
          h("p", { class: "next" }, next),
        ),
      ),
    );
  }

  /** Put a button in place of each number that is a citation, in the text below `node`. */
  #withCitations(node) {
    const walker = document.createTreeWalker(node, NodeFilter.SHOW_TEXT);
    const texts = [];
    while (walker.nextNode()) texts.push(walker.currentNode);
    for (const text of texts) {
      const parts = text.data.split(new RegExp(`(${MARKERS.source})`));
      if (parts.length > 1) text.replaceWith(...parts.flatMap((part) => this.#linked(part)));
    }
    return node;
  }

  #linked(part) {
    const numbers = /^\s*\[[\d,\s]+\]$/.test(part) ? part.match(/\d+/g).map(Number) : [];
    const citations = numbers.map((number) => this.response.citations.find((one) => one.marker === number));
    if (!citations.length || citations.includes(undefined)) return [part];
    return citations.flatMap((citation) => [
      "\u2060", // stays on the line of the word before it
      h(
        "button",
        {
          type: "button",
          class: "cite",
          "aria-label": `Source ${citation.marker}: ${titleOf(citation)}`,
          onclick: (event) => this.#show(null, citation, event.currentTarget),
        },
        String(citation.marker),
      ),
    ]);
  }

  #sources() {
    const items = this.response.citations.map((citation) =>
      h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: "source", onclick: (event) => this.#show(null, citation, event.currentTarget) },
          h("span", { class: "marker" }, String(citation.marker)),
          h(
            "span",
            { class: "what" },
            h("span", { class: "title" }, name(titleOf(citation)), pageOf(citation), this.#section(citation)),
            h("span", { class: "quote", dir: "auto" }, quotesOf(citation)),
          ),
        ),
      ),
    );
    return h("section", { class: "sources" }, h("h3", {}, "Sources"), h("ol", {}, items));
  }

  /** The heading a source stands under, where it says more than the title. */
  #section(citation) {
    const heading = this.#passage(citation.chunk_id)?.headings?.at(-1);
    return heading && heading !== titleOf(citation) ? h("span", { class: "section" }, flowing(heading)) : null;
  }

  /** Who wrote the answer, and what to know about it. */
  #notes() {
    const { answerable, citations, finish_reason: reason, llm_generated: written, warnings = [] } = this.response;
    const notes = [];
    if (reason === "length") notes.push("The answer is cut off: the model reached its length limit.");
    if (reason === "filtered" && answerable) notes.push("The provider of the model held back a part of this answer.");
    if (answerable && !citations.length) notes.push("Check it elsewhere: this answer names no source.");
    notes.push(...warnings.map((warning) => inWords(warning, this.response)).filter(Boolean));
    const by = written
      ? `Written by a language model.${citations.length ? " Check it against its sources." : ""}`
      : answerable
        ? "Sentences of your documents, as they stand there. No language model wrote this."
        : this.response.usage?.llm_calls ? "A language model was asked." : "No language model was asked.";
    return [
      notes.length &&
        h("ul", { class: "warnings" }, notes.map((note) => h("li", {}, icon("warn"), h("span", {}, note)))),
      h("p", { class: "origin" }, by),
    ].filter(Boolean);
  }

  #forOperators() {
    return (this.response.warnings ?? []).filter((warning) => !inWords(warning, this.response));
  }

  #showFound() {
    const results = this.#results;
    const before = this.found.querySelector("details");
    if (!results.length) {
      this.found.replaceChildren();
      return;
    }
    const cited = new Map((this.response?.citations ?? []).map((one) => [one.chunk_id, one]));
    const out = new Map((this.response?.left_out ?? []).map((one) => [one.chunk_id, one]));
    const number = results.filter((one) => cited.has(one.chunk_id)).length;
    this.found.replaceChildren(
      h(
        "details",
        { class: "found", open: before?.open },
        h(
          "summary",
          {},
          h("span", {}, this.response?.answerable === false ? "Closest passages" : "Passages found"),
          h("span", { class: "facts" }, `${results.length}${number ? `, ${number} cited` : ""}`),
        ),
        h("ol", {}, results.map((one, at) => this.#result(one, at + 1, cited.get(one.chunk_id), out.get(one.chunk_id)))),
      ),
    );
  }

  #result(passage, rank, citation, leftOut) {
    return h(
      "li",
      { class: citation ? "result is-cited" : "result" },
      h("span", { class: "rank" }, h("span", { class: "hidden" }, "Rank "), String(rank)),
      h(
        "div",
        {},
        h(
          "p",
          { class: "title" },
          name(titleOf(passage)),
          pageOf(passage),
          citation ? h("span", { class: "tag" }, `source ${citation.marker}`) : null,
          leftOut ? h("span", { class: "tag out" }, LEFT_OUT[leftOut.reason] ?? "not used") : null,
        ),
        titleOf(passage) !== passage.document_id ? h("p", { class: "id" }, name(passage.document_id)) : null,
        h("p", { class: "excerpt", dir: "auto" }, excerpt(passage, citation)),
        h("button", {
          type: "button",
          class: "quiet small",
          "aria-label": `Show passage ${rank} in its document`,
          onclick: (event) => this.#show(passage, citation ?? null, event.currentTarget),
        }, "Show in document"),
      ),
    );
  }

  #showFoot(failed = false) {
    const link = `?q=${encodeURIComponent(this.query)}&collection=${encodeURIComponent(this.collection)}`;
    const done = h("span", {});
    const feedback = this.response && this.#actions.rate && new Feedback((fields) => this.#actions.rate(this.given, fields));
    if (feedback) this.rating.append(feedback.form);
    this.foot.append(
      ...[
        feedback && feedback.buttons,
        failed &&
          h("button", { type: "button", class: "quiet", onclick: () => this.#actions.again() }, icon("again"), h("span", {}, "Ask again")),
        this.response?.answerable &&
          navigator.clipboard &&
          h("button", {
            type: "button",
            class: "quiet small",
            onclick: async () => {
              await navigator.clipboard.writeText(this.response.answer).catch(() => {});
              done.textContent = "Copied";
              announce("Copied");
            },
          }, icon("copy"), h("span", {}, "Copy answer")),
        this.response && h("a", { class: "quiet small", href: link, target: "_blank", rel: "noopener" }, "Link to this question"),
        done,
      ].filter(Boolean),
    );
  }
}

/** An error in plain words: what happened, what to do next, and the id to ask with. */
export function problem(error) {
  const { title, message, next, forOperators: said } = explain(error);
  const internal = said ? [h("p", { dir: "auto" }, sentence(said))] : [];
  return h(
    "div",
    { class: "problem", role: "alert" },
    icon("warn"),
    h(
      "div",
      {},
      h("h3", {}, title),
      message ? h("p", { dir: "auto" }, sentence(message)) : null,
      h("p", { class: "next" }, next),
      forOperators(error.requestId ? [...internal, h("p", {}, "Request id ", h("code", {}, error.requestId))] : internal),
    ),
  );
}

/** What only whoever runs the service can use: out of the way, and there when they are asked. */
export const forOperators = (content) =>
  content.length ? h("details", { class: "operators" }, h("summary", {}, "Details for whoever runs the service"), content) : null;

/** A warning in words for a reader; "" where it is one for whoever runs the service. */
function inWords(warning, response) {
  const [kind, ...rest] = warning.split(":");
  return WARNINGS[kind]?.(rest.join(":").trim(), response) ?? "";
}

/** A response whose sources are numbered 1, 2, 3 as they appear in its answer. */
function numbered(response) {
  const known = new Map(response.citations.map((one) => [one.marker, one]));
  const order = new Map();
  const place = (marker) => order.get(marker) ?? order.set(marker, order.size + 1).get(marker);
  const answer = response.answer.replace(MARKERS, (found) => {
    const numbers = found.match(/\d+/g).map(Number);
    if (!numbers.every((number) => known.has(number))) return found;
    return found.replace(/\d+/g, (number) => place(Number(number)));
  });
  const citations = response.citations.map((one) => ({ ...one, marker: place(one.marker) }));
  return { ...response, answer, citations: citations.sort((a, b) => a.marker - b.marker) };
}

/** What a citation quotes, as text in one line. */
function quotesOf(citation) {
  const quotes = citation.quotes?.length ? citation.quotes : [citation.quote];
  return quotes.flatMap((quote, at) => [at ? " … " : "", ...(isMarkdown(citation) ? flowing(quote) : [quote])]);
}

/** A passage cut to where the answer cites it, with the first of what is cited marked. */
function excerpt(passage, citation) {
  const { text, span } = passage;
  const [from, to] = citation ? toUnits(text, citation.spans[0].map((offset) => Math.max(0, offset - span[0]))) : [0, 0];
  const line = text.lastIndexOf("\n", from) + 1;
  const begin = from - line > LEAD ? text.indexOf(" ", from - LEAD) + 1 : line;
  const shown = text.slice(begin);
  const leaf = marking([{ begin: from - begin, end: to - begin, make: (piece) => h("mark", {}, piece) }], shown);
  const content = isMarkdown(passage) ? flowing(shown, { leaf, inCode: !begin && passage.in_code }) : leaf(0, shown.length);
  return [begin > 0 ? "… " : "", ...content];
}
