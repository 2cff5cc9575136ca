// Runs of `rag eval --save` side by side: metrics with their intervals, and what differs.

import { apiKey, load } from "./api.js";
import { announce, byId, count, h, name } from "./dom.js";
import { problem } from "./turn.js";

const SVG = "http://www.w3.org/2000/svg";
const MOST = 4; // runs at once; more cannot be told apart
const WIDTH = 320; // of a plot, in its own units
const ROW = 14;
const SHOWN = 50; // questions
let runs = [];
let chosen = [];

async function start() {
  try {
    ({ runs } = await load("v1/evaluations"));
  } catch (error) {
    byId("key-form").hidden = error.status !== 401;
    byId("runs").replaceChildren(problem(error));
    return;
  }
  byId("key-form").hidden = true;
  runs = runs.flatMap((run) => [run, ...second(run)]);
  chosen = runs.slice(0, 2);
  showRuns();
  await show();
}

/** The second run of a command with `--compare` or `--against`. */
function second(run) {
  if (!run.comparison) return [];
  const { settings, request, failed, metrics } = run.comparison;
  return [{ ...run, name: `${run.name}, compared`, of: run, settings, request, failed, metrics, comparison: null }];
}

function showRuns() {
  if (!runs.length) {
    const command = h("code", {}, "rag eval questions.jsonl --save NAME");
    byId("runs").replaceChildren(h("p", { class: "empty" }, "No run was kept yet: ", command));
    return;
  }
  const rows = runs.map((run) =>
    h(
      "tr",
      {},
      h("td", {}, box(run)),
      h("th", { scope: "row" }, name(run.name)),
      h("td", {}, new Date(run.at).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })),
      h("td", {}, run.questions.toLocaleString("en"), run.failed ? `, ${count(run.failed, "failure")}` : ""),
      h("td", { class: "id" }, settingsOf(run)),
    ),
  );
  byId("runs").replaceChildren(table(["Show", "Name", "Measured", "Questions", "Settings"], rows, "Runs"));
}

function box(run) {
  const input = h("input", { type: "checkbox", "aria-label": `Show ${run.name}`, checked: chosen.includes(run) });
  input.addEventListener("change", () => {
    const others = chosen.filter((one) => one !== run);
    if (input.checked && others.length === MOST) {
      input.checked = false;
      announce(`At most ${MOST} runs are shown at once`);
      return;
    }
    chosen = input.checked ? runs.filter((one) => one === run || others.includes(one)) : others;
    show();
  });
  return h("label", { class: "box-label" }, input);
}

const settingsOf = ({ request, settings = {} }) =>
  [...Object.entries(settings).map((pair) => pair.join("=")), JSON.stringify(request)].join(" ");

const table = (columns, rows, label) =>
  h(
    "div",
    { class: "table", tabindex: "0", role: "region", "aria-label": label },
    h("table", {}, h("thead", {}, h("tr", {}, columns.map((one) => h("th", { scope: "col" }, one)))), h("tbody", {}, rows)),
  );

async function show() {
  byId("measured").hidden = !chosen.length;
  byId("legend").replaceChildren(
    ...chosen.map((run, at) => h("span", {}, h("span", { class: `dot series-${at}`, "aria-hidden": "true" }), name(run.name))),
  );
  showMetrics();
  await showDifferences();
  announce(`${count(chosen.length, "run")} shown`);
}

function showMetrics() {
  const names = [...new Set(chosen.flatMap(({ metrics }) => Object.keys(metrics)))];
  const rows = names.map((metric) => {
    const of = chosen.map(({ metrics }) => metrics[metric]);
    const top = metric.endsWith("_ms") ? Math.max(1, ...of.map((one) => one?.high ?? 0)) : 1;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, metric),
      h("td", {}, plot(of.map((one) => one && { ...one, from: 0, to: top }))),
      of.map((one) => h("td", {}, figures(one))),
    );
  });
  byId("metrics").replaceChildren(table(["Metric", "", ...chosen.map((run) => run.name)], rows, "Metrics"));
}

function figures(metric) {
  if (!metric || metric.value === null) return "–";
  return `${figure(metric.value)} (${figure(metric.low)} to ${figure(metric.high)}, n ${metric.n})`;
}

const figure = (value) => (Math.abs(value) >= 10 ? value.toFixed(0) : value.toFixed(3));

/** A point with its interval for each run, on one scale; the figures stand beside it. */
function plot(values) {
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${ROW * values.length}`, class: "plot", "aria-hidden": "true" });
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(shape("line", { class: "grid", x1: at(share), x2: at(share), y1: 0, y2: ROW * values.length }));
  }
  for (const [row, one] of values.entries()) {
    if (!one || one.value === null) continue;
    const place = (value) => at((value - one.from) / (one.to - one.from));
    const y = ROW * (row + 0.5);
    svg.append(
      shape("line", { class: `interval series-${row}`, x1: place(one.low), x2: place(one.high), y1: y, y2: y }),
      shape("circle", { class: `point series-${row}`, cx: place(one.value), cy: y, r: 4 }),
    );
  }
  return svg;
}

const at = (share) => 6 + Math.min(1, Math.max(0, share)) * (WIDTH - 12);

function shape(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

async function showDifferences() {
  const [first, other] = chosen;
  byId("compared").hidden = chosen.length < 2;
  byId("asked").hidden = true;
  if (chosen.length < 2) return;
  byId("differences-note").replaceChildren(name(first.name), " minus ", name(other.name), ", question by question; “real” is more than chance explains (p below 0.05).");
  try {
    const differences = await differencesOf(first, other);
    if (chosen[0] !== first || chosen[1] !== other) return;
    byId("differences").replaceChildren(differences ? differenceTable(differences) : h("p", {}, "Only runs that were kept by themselves, or the two of one command, can be compared."));
    await showQuestions(first, other);
  } catch (error) {
    byId("differences").replaceChildren(problem(error));
  }
}

async function differencesOf(first, other) {
  if (other.of === first) return first.comparison.differences;
  if (first.of || other.of) return null;
  const path = `v1/evaluations/${encodeURIComponent(first.name)}/comparison?with=${encodeURIComponent(other.name)}`;
  return (await load(path)).differences;
}

function differenceTable(differences) {
  const rows = Object.entries(differences).map(([metric, one]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, metric),
      h("td", {}, plot([{ ...one, from: -1, to: 1 }])),
      h("td", {}, figures(one)),
      h("td", {}, one.p === null ? "–" : one.p.toFixed(3)),
      h("td", {}, one.real ? h("strong", {}, "real") : "chance"),
    ),
  );
  return table(["Metric", "", "Difference", "p", ""], rows, "Differences");
}

/** The questions with another score in the second run. */
async function showQuestions(first, other) {
  if (first.of || other.of) return;
  const [one, two] = await Promise.all([first, other].map((run) => load(`v1/evaluations/${encodeURIComponent(run.name)}`)));
  const before = new Map(two.report.scored.map((item) => [`${item.id}\n${item.query}`, item.scores]));
  const rows = one.report.scored.flatMap((item) => {
    const scores = before.get(`${item.id}\n${item.query}`) ?? {};
    const differ = Object.keys(item.scores).filter((metric) => metric in scores && scores[metric] !== item.scores[metric]);
    return differ.length ? [h("tr", {}, h("th", { scope: "row", dir: "auto" }, item.query), h("td", {}, differ.map((metric) => h("div", {}, `${metric}: ${figure(item.scores[metric])}, ${figure(scores[metric])}`))))] : [];
  });
  byId("asked").hidden = false;
  byId("questions").replaceChildren(
    rows.length ? table(["Question", `${first.name}, ${other.name}`], rows.slice(0, SHOWN), "Questions that differ") : h("p", {}, "Every question has the same scores in both."),
    rows.length > SHOWN ? h("p", { class: "note" }, `${count(rows.length - SHOWN, "more question")}.`) : "",
  );
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey.set(byId("key").value.trim());
  byId("key").value = "";
  start();
});
start();
