// What lies behind an answer: who wrote it, what it cost, how long each step took, how passages scored.

import { count, duration, h, name, titleOf } from "./dom.js";

const STEPS = [
  ["rewrite", "Follow-up"],
  ["retrieve", "Search"],
  ["rerank", "Sorting"],
  ["augment", "Prompt"],
  ["generate", "Answer"],
  ["total", "Total"],
];

/** A closed box "Details" of a response and the passages found; `warnings` in the service's own words. */
export function details(response, results, warnings) {
  return h(
    "details",
    { class: "found about" },
    h("summary", {}, "Details"),
    h("div", { class: "inside" }, facts(response), times(response.timings_ms ?? {}), scores(results), notes(warnings)),
  );
}

function facts({ provenance, usage, id }) {
  const model = provenance?.generate?.model;
  const rows = [
    typeof model === "string" && ["Model", model],
    usage?.total_tokens > 0 && ["Tokens", usage.total_tokens.toLocaleString("en")],
    ["Request id", h("code", {}, id)],
  ].filter(Boolean);
  return h("dl", { class: "known" }, rows.map(([term, value]) => h("div", {}, h("dt", {}, term), h("dd", {}, value))));
}

function times(measured) {
  const known = STEPS.filter(([step]) => typeof measured[step] === "number");
  if (!known.length) return null;
  const longest = Math.max(...known.map(([step]) => measured[step]));
  return h(
    "dl",
    { class: "times", "aria-label": "Time of each step" },
    known.map(([step, label]) =>
      h(
        "div",
        { class: step, title: step },
        h("dt", {}, label),
        h("dd", {}, bar(part(measured[step], longest)), h("span", {}, duration(measured[step]))),
      ),
    ),
  );
}

function scores(results) {
  if (!results.length) return null;
  const legs = legsOf(results);
  const columns = ["Passage", "score", ...legs];
  return h(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": "Scores of the passages" },
    h(
      "table",
      { class: "scores" },
      h("caption", {}, `Scores of ${count(results.length, "passage")}`),
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, column)))),
      h(
        "tbody",
        {},
        results.map((one, at) =>
          h(
            "tr",
            {},
            h("th", { scope: "row" }, `${at + 1}. `, name(titleOf(one))),
            [one.score, ...legs.map((leg) => one.scores?.[leg])].map((value) => h("td", {}, figure(value))),
          ),
        ),
      ),
    ),
  );
}

const notes = (warnings) => (warnings.length ? h("ul", { class: "said" }, warnings.map((one) => h("li", {}, one))) : null);

/** A bar, `share` of its full width. */
function bar(share) {
  const element = h("span", { class: "meter", "aria-hidden": "true" });
  element.style.setProperty("--share", share.toFixed(4));
  return element;
}

const part = (value, best) => (value > 0 && best > 0 ? Math.min(1, value / best) : 0);

function figure(value) {
  if (typeof value !== "number") return "–";
  return Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(3);
}

/** The legs of the search that any passage has a score of. */
const legsOf = (results) => [...new Set(results.flatMap(({ scores: of }) => Object.keys(of ?? {})))];
