// One question and its answer on the page.

import { explain } from "./api.js";
import { announce, count, duration, h, icon, name, sentence, titleOf, toUnits } from "./dom.js";

const STEPS = [
  ["retrieve", "Search"],
  ["augment", "Prompt"],
  ["generate", "Answer"],
  ["total", "Total"],
];
const LEFT_OUT = {
  near_duplicate: "not used: nearly the same as another",
  token_budget: "not used: no room in the prompt",
  empty: "not used: empty",
};
const LEAD = 90; // characters shown before what is cited
let turns = 0;

/** What the page shows of a question: grows while it is answered, then holds the answer. */
export class Turn {
  response = null;
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
    this.answer = h("div", { class: "answer", dir: "auto", "aria-busy": "true" });
    this.more = h("div", { class: "more" });
    this.found = h("div", {});
    this.times = h("div", {});
    this.foot = h("div", { class: "row turn-foot" });
    this.element = h(
      "article",
      { class: "turn", "aria-labelledby": id },
      ...[this.question, this.answer, this.state, this.more, this.found, this.times, this.foot],
    );
    announce(`Searching in ${collection}`);
  }

  /** Retrieval is done. */
  searched({ results, timings_ms: times }) {
    this.#results = results;
    this.#say(`Found ${count(results.length, "passage")}; writing the answer…`);
    announce(`${count(results.length, "passage")} found`);
    this.#showFound();
    this.#showTimes(times ?? {});
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
  finish(response) {
    this.response = response;
    this.#settle();
    if (!this.#results.length) this.#results = response.contexts;
    if (response.answerable) this.#showAnswer();
    else this.#showNoContext();
    this.more.append(...this.#notes());
    this.#showFound();
    this.#showTimes(response.timings_ms);
    this.#showFoot();
    announce(`${response.answerable ? "Answer:" : `${this.#without()[0]}.`} ${response.answer}`);
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
    const { answer, citations, llm_generated: written } = this.response;
    this.answer.replaceChildren(
      ...(written ? blocks(answer) : paragraphs(answer)).map((block) => this.#withCitations(block)),
    );
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
          ...paragraphs(this.response.answer),
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
      const parts = text.data.split(/(\s*\[\d+(?:\s*,\s*\d+)*\])/);
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
          "aria-label": `[${citation.marker}] ${titleOf(citation)}`,
          onclick: (event) => this.#show(null, citation, event.currentTarget),
        },
        `[${citation.marker}]`,
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
            h("span", { class: "title" }, name(titleOf(citation)), page(citation)),
            h("span", { class: "quote", dir: "auto" }, (citation.quotes?.length ? citation.quotes : [citation.quote]).join(" … ")),
          ),
        ),
      ),
    );
    return h("section", { class: "sources" }, h("h3", {}, "Sources"), h("ol", {}, items));
  }

  /** Who wrote the answer, and what to know about it. */
  #notes() {
    const { answerable, citations, finish_reason: reason, llm_generated: written } = this.response;
    const model = this.response.provenance?.generate?.model;
    const tokens = this.response.usage?.total_tokens;
    const notes = [];
    if (reason === "length") notes.push("The answer is cut off: the model reached its length limit.");
    if (reason === "filtered") notes.push("The provider of the model held back a part of this answer.");
    if (answerable && !citations.length) notes.push("This answer names no source. Check it elsewhere.");
    notes.push(...(this.response.warnings ?? []).map(sentence));
    const by = written
      ? ["Written by a language model", typeof model === "string" && ` (${model})`, ". Check it against its sources."]
      : answerable
        ? ["Sentences of your documents, as they stand there. No language model wrote this."]
        : ["No language model was asked."];
    if (written && tokens) by.push(` ${count(tokens, "token")}.`);
    return [
      notes.length &&
        h("ul", { class: "warnings" }, notes.map((note) => h("li", {}, icon("warn"), h("span", {}, note)))),
      h("p", { class: "origin" }, by.filter(Boolean)),
    ].filter(Boolean);
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
    const legs = legsOf(results);
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
        h("ol", {}, results.map((one, at) => this.#result(one, at + 1, legs, cited.get(one.chunk_id), out.get(one.chunk_id)))),
      ),
    );
  }

  #result(passage, rank, legs, citation, leftOut) {
    const score = (label, value, part) =>
      h(
        "div",
        {},
        h("dt", {}, label),
        h("dd", {}, part === null ? null : bar(part), h("span", {}, value === undefined ? "–" : figure(value))),
      );
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
          page(passage),
          citation ? h("span", { class: "tag" }, `cited as [${citation.marker}]`) : null,
          leftOut ? h("span", { class: "tag out" }, LEFT_OUT[leftOut.reason] ?? "not used") : null,
        ),
        titleOf(passage) !== passage.document_id ? h("p", { class: "id" }, name(passage.document_id)) : null,
        h("p", { class: "excerpt", dir: "auto" }, excerpt(passage, citation)),
        h(
          "div",
          { class: "row" },
          h(
            "dl",
            { class: "scores" },
            score("score", passage.score, null),
            legs.map(([leg, best]) => score(leg, passage.scores?.[leg], part(passage.scores?.[leg], best))),
          ),
          h("button", {
            type: "button",
            class: "quiet small",
            "aria-label": `Show passage ${rank} in its document`,
            onclick: (event) => this.#show(passage, citation ?? null, event.currentTarget),
          }, "Show in document"),
        ),
      ),
    );
  }

  #showTimes(times) {
    const known = STEPS.filter(([step]) => typeof times[step] === "number");
    if (!known.length) return;
    const longest = Math.max(...known.map(([step]) => times[step]));
    this.times.replaceChildren(
      h(
        "dl",
        { class: "times", "aria-label": "Time of each step" },
        known.map(([step, label]) =>
          h(
            "div",
            { class: step, title: step },
            h("dt", {}, label),
            h("dd", {}, bar(part(times[step], longest)), h("span", {}, duration(times[step]))),
          ),
        ),
      ),
    );
  }

  #showFoot(failed = false) {
    const link = `?q=${encodeURIComponent(this.query)}&collection=${encodeURIComponent(this.collection)}`;
    const done = h("span", {});
    this.foot.append(
      ...[
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
        this.response && h("a", { class: "small", href: link, target: "_blank", rel: "noopener" }, "Link to this question"),
        done,
      ].filter(Boolean),
    );
  }
}

/** An error in plain words: what happened, what to do next, and the id to ask with. */
export function problem(error) {
  const { title, message, next } = explain(error);
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
      error.requestId ? h("p", { class: "request" }, "Request id ", h("code", {}, error.requestId)) : null,
    ),
  );
}

/** Page a passage begins on, when its document has pages. */
const page = (passage) =>
  passage.page === null || passage.page === undefined ? null : h("span", { class: "page" }, `from page ${passage.page}`);

/** A bar, `share` of its full width. */
function bar(share) {
  const element = h("span", { class: "meter", "aria-hidden": "true" });
  element.style.setProperty("--share", share.toFixed(4));
  return element;
}

const part = (value, best) => (value > 0 && best > 0 ? Math.min(1, value / best) : 0);
const figure = (value) => (Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(3));

/** The legs of the search with the best score of each: legs do not share a scale. */
function legsOf(results) {
  const legs = new Map([["dense", 0], ["sparse", 0]]);
  const seen = new Set();
  for (const { scores } of results) {
    for (const [leg, value] of Object.entries(scores ?? {})) {
      seen.add(leg);
      legs.set(leg, Math.max(legs.get(leg) ?? 0, value));
    }
  }
  return [...legs].filter(([leg]) => seen.has(leg));
}

/** A passage cut to where the answer cites it, with the first of what is cited marked. */
function excerpt({ text, span }, citation) {
  if (!citation) return [text];
  const [from, to] = toUnits(text, citation.spans[0].map((offset) => Math.max(0, offset - span[0])));
  const line = text.lastIndexOf("\n", from) + 1;
  const begin = from - line > LEAD ? text.indexOf(" ", from - LEAD) + 1 : line;
  const marked = h("mark", {}, text.slice(from, to));
  return [begin > 0 ? "… " : "", text.slice(begin, from), marked, text.slice(to)];
}

const paragraphs = (text) => text.split(/\n{2,}/).map((one) => h("p", {}, one));

/** Paragraphs, lists and code of an answer, from the little Markdown models write. */
function blocks(text) {
  const parts = text.split(/^```[^\n]*\n([^]*?)\n?^```[ \t]*$/m);
  return parts.flatMap((piece, at) => (at % 2 ? [h("pre", {}, piece)] : prose(piece)));
}

function prose(text) {
  const made = [];
  let list = null;
  let lines = [];
  const flush = () => {
    if (lines.length) made.push(h("p", {}, inline(lines.join("\n"))));
    lines = [];
  };
  for (const line of text.split("\n")) {
    const [, mark, item] = /^\s{0,3}([-*•]|\d{1,2}[.)])\s+(.*)$/.exec(line) ?? [];
    if (!mark) {
      if (line.trim()) {
        list = null;
        lines.push(line.replace(/^#{1,6}\s+/, ""));
      } else {
        flush(); // a blank line ends a paragraph; a list may go on after it
      }
      continue;
    }
    flush();
    const tag = /\d/.test(mark) ? "ol" : "ul";
    if (list?.localName !== tag) {
      list = h(tag, { start: tag === "ol" && Number.parseInt(mark, 10) });
      made.push(list);
    }
    list.append(h("li", {}, inline(item)));
  }
  flush();
  return made;
}

function inline(text) {
  return text
    .split(/(\*\*[^*\n]+\*\*|`[^`\n]+`)/)
    .filter(Boolean)
    .map((piece) => {
      if (/^\*\*[^*]+\*\*$/.test(piece)) return h("strong", {}, piece.slice(2, -2));
      if (/^`[^`]+`$/.test(piece)) return h("code", {}, piece.slice(1, -1));
      return piece;
    });
}
