// The page: a conversation with the documents of a collection.

import { apiKey, load, send, stream } from "./api.js";
import { keep, kept } from "./conversation.js";
import { Documents } from "./documents.js";
import { announce, byId, closePanel, count, h, name, sentence } from "./dom.js";
import { showPassage } from "./passage.js";
import { Turn, forOperators } from "./turn.js";

const HISTORY = 3; // earlier turns sent along
const LIMIT = 8192; // bytes of a question
const WAIT = 5; // seconds until the service is asked again whether it is ready
const linked = new URLSearchParams(location.search);

const page = {
  collection: linked.get("collection") || "default",
  chosen: Boolean(linked.get("collection")), // else the service says where to begin
  collections: [],
  turns: [],
  asking: null, // AbortController
  refused: null, // what to do again once there is a key

  get exists() {
    return this.collections.some((one) => one.name === this.collection);
  },

  /** The collections changed. */
  async changed() {
    await readCollections();
  },

  /** A request failed; an API key may mend it. */
  failed(error) {
    if (error.status === 401) askForKey();
    if (["not_ready", "draining", "unreachable"].includes(error.code)) untilReady();
  },
};

const documents = new Documents(page);

// --- asking -------------------------------------------------------------------------------------

const question = byId("question");

async function ask(query) {
  if (page.asking) return;
  const { collection } = page;
  const messages = history(collection);
  const turn = begin(query, collection);
  turn.messages = messages;
  announce(`Searching in ${collection}`);
  page.asking = new AbortController();
  page.refused = null;
  turn.element.scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
  busy(true);
  try {
    const json = { query, collection, top_k: Number(byId("top-k").value), messages, stream: true };
    const options = { method: "POST", json, signal: page.asking.signal };
    for await (const { name, data } of stream("rag_modules", options, "final_answer")) {
      if (name === "search_results") turn.searched(data);
      else if (name === "message") turn.wrote(data.delta?.content ?? "");
      else if (name === "citation") turn.cited(data.citation);
      else if (name === "final_answer") turn.finish(data);
    }
  } catch (error) {
    if (page.asking.signal.aborted) {
      turn.stop();
    } else {
      turn.fail(error);
      page.failed(error);
      if (error.status === 401) page.refused = () => ask(query);
    }
  } finally {
    page.asking = null;
    busy(false);
    save();
  }
}

/** Put a question on the page. */
function begin(query, collection) {
  const turn = new Turn(query, collection, {
    show: (passage, citation, button) => showPassage(collection, passage, citation, button),
    again: () => ask(query),
    rate: page.rated ? rate : null,
  });
  page.turns.push(turn);
  byId("welcome").hidden = true;
  byId("new-conversation").hidden = false;
  byId("thread").append(turn.element);
  return turn;
}

/** Hand on whether an answer was right, with where it came from. */
async function rate(response, fields) {
  const { id, query, collection, answer, answerable, citations, provenance } = response;
  const turn = page.turns.find((one) => one.given === response);
  const json = { id, query, collection, answer, answerable, citations, provenance, messages: turn?.messages ?? [], ...fields };
  await send("v1/feedback", { method: "POST", json });
}

const save = () => keep(page.turns.map((turn) => turn.saved()));

function restore() {
  for (const turn of kept()) begin(turn.query, turn.collection).restore(turn);
  page.turns.at(-1)?.element.scrollIntoView({ block: "start" });
}

/** What was said before, as the request's `messages`; numbers of earlier sources mean nothing now. */
function history(collection) {
  return page.turns
    .filter((turn) => turn.collection === collection && turn.response)
    .slice(-HISTORY)
    .flatMap(({ query, response }) => [
      { role: "user", content: query },
      { role: "assistant", content: response.answer.replace(/\s*\[\d+(?:\s*,\s*\d+)*\]/g, "") },
    ]);
}

const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

function busy(asking) {
  const hadFocus = document.activeElement === byId(asking ? "send" : "stop");
  byId("send").hidden = asking;
  byId("stop").hidden = !asking;
  if (hadFocus) (asking ? byId("stop") : question).focus();
  enable();
}

function enable() {
  byId("send").disabled = !question.value.trim();
}

function note(text, wrong = false) {
  byId("question-note").textContent = text;
  byId("question-note").classList.toggle("wrong", wrong);
  question.toggleAttribute("aria-invalid", wrong);
}

function grow() {
  question.style.setProperty("--height", "auto");
  question.style.setProperty("--height", `${question.scrollHeight}px`);
}

const HINT = byId("question-note").textContent;

question.addEventListener("input", () => {
  grow();
  enable();
  const bytes = new TextEncoder().encode(question.value.trim()).length;
  if (bytes > LIMIT) note(`A question has at most ${count(LIMIT, "byte")}; this one has ${count(bytes, "byte")}.`, true);
  else note(HINT);
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("ask").requestSubmit();
});
byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const query = question.value.trim();
  if (!query || new TextEncoder().encode(query).length > LIMIT) return;
  if (page.asking) {
    announce("An answer is on its way; stop it first");
    return;
  }
  question.value = "";
  grow();
  ask(query);
});
byId("stop").addEventListener("click", () => page.asking?.abort());
byId("new-conversation").addEventListener("click", () => {
  clear();
  announce("New conversation");
  question.focus();
});

function clear() {
  page.asking?.abort();
  page.turns = [];
  save();
  for (const turn of document.querySelectorAll(".turn")) turn.remove();
  closePanel();
  byId("welcome").hidden = false;
  byId("new-conversation").hidden = true;
  showCollection();
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  if (event.target.type === "search" && event.target.value) return; // clears the filter first
  closePanel();
});

// --- collections --------------------------------------------------------------------------------

const choice = byId("collection");

async function readCollections() {
  try {
    ({ collections: page.collections } = await load("v1/collections"));
    page.loaded = true;
  } catch (error) {
    page.failed(error);
  }
  showCollections();
}

function showCollections() {
  const names = page.collections.map((one) => one.name);
  if (!page.chosen && names.length && !names.includes(page.collection)) [page.collection] = names;
  if (!names.includes(page.collection)) names.unshift(page.collection);
  choice.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
  choice.value = page.collection;
  byId("choose-collection").hidden = names.length < 2; // nothing to choose
  showCollection();
}

function showCollection() {
  const known = page.collections.find((one) => one.name === page.collection);
  byId("documents-number").hidden = !known;
  byId("documents-number").textContent = known ? known.documents.toLocaleString("en") : "";
  const empty = page.loaded === true && !known?.documents;
  byId("welcome-text").textContent = empty
    ? `There are no documents in “${page.collection}” yet.`
    : `Answers come from ${known?.documents ? count(known.documents, "document") : "your documents"}, with the passages they rest on.`;
  byId("welcome-add").hidden = !empty || !page.managed;
  byId("welcome-examples").hidden = page.suggested !== page.collection;
  if (known?.documents && !page.turns.length) suggest(page.collection);
}

/** Show questions that the documents of a collection answer; none is no failure. */
async function suggest(collection) {
  if (page.suggested === collection) return;
  page.suggested = collection;
  const { questions } = await load(`v1/examples?collection=${encodeURIComponent(collection)}`).catch(() => ({ questions: [] }));
  if (page.suggested !== collection) return;
  byId("welcome-examples").hidden = !questions.length;
  byId("welcome-examples").replaceChildren(
    ...questions.map((text) => h("li", {}, h("button", { type: "button", class: "example", dir: "auto", onclick: () => ask(text) }, name(text)))),
  );
}

choice.addEventListener("change", () => {
  page.collection = choice.value;
  page.chosen = true;
  showCollection();
  if (!byId("documents").hidden) documents.refresh();
});

byId("new-collection").addEventListener("click", () => {
  byId("naming-name").value = "";
  byId("naming").returnValue = "";
  byId("naming").showModal();
});
byId("naming").addEventListener("close", () => {
  if (byId("naming").returnValue !== "yes") return;
  page.collection = byId("naming-name").value;
  page.chosen = true;
  showCollections();
  documents.refresh();
  announce(`Collection ${page.collection}; it is created with its first document`);
});

// --- API key ------------------------------------------------------------------------------------

const keyForm = byId("key-form");

function askForKey() {
  showKey(true);
  byId("key").focus();
}

function showKey(shown) {
  keyForm.hidden = !shown;
  keyWrong("");
  byId("show-key").setAttribute("aria-expanded", String(shown));
  byId("show-key").hidden = !(page.authentication || shown || apiKey.get());
  byId("forget-key").hidden = !apiKey.get();
}

byId("show-key").addEventListener("click", () => {
  showKey(keyForm.hidden);
  if (!keyForm.hidden) byId("key").focus();
});
function keyWrong(text) {
  byId("key-wrong").textContent = text;
  byId("key").toggleAttribute("aria-invalid", Boolean(text));
}

/** Whether the service takes the key of this tab; what else it may refuse is said where it is asked. */
async function accepted() {
  try {
    await load("v1/collections");
  } catch (error) {
    return error.status !== 401;
  }
  return true;
}

keyForm.addEventListener("submit", async (event) => {
  event.preventDefault();
  const key = byId("key").value.trim();
  if (!key) return keyWrong("Enter a key.");
  apiKey.set(key);
  if (!(await accepted())) {
    apiKey.set("");
    keyWrong("The service does not know this key. Check it for missing characters, or ask whoever runs the service.");
    byId("key").select();
    return;
  }
  byId("key").value = "";
  showKey(false);
  announce("The key is used from now on");
  question.focus();
  const again = page.refused;
  page.refused = null;
  await start();
  again?.();
});
byId("forget-key").addEventListener("click", () => {
  apiKey.set("");
  clear(); // what it had been shown goes with it
  showKey(true);
  byId("key").focus();
  announce("The key is forgotten");
});

// --- readiness ----------------------------------------------------------------------------------

let checking = null; // the check under way
let timer = 0;

/** Resolves when the service is ready; says what is missing until then. */
function untilReady() {
  checking ??= (async () => {
    for (;;) {
      try {
        await load("readyz");
        break;
      } catch (error) {
        if (error.status === 401 || error.status === 403 || error.status === 404) break;
        await waitFor(error);
      }
    }
    if (!byId("banner").hidden) announce("The service is ready");
    byId("banner").hidden = true;
  })().finally(() => {
    checking = null;
  });
  return checking;
}

async function waitFor(error) {
  const unreachable = error.status === 0;
  byId("banner-title").textContent = unreachable ? "The service cannot be reached." : "The service is not ready.";
  byId("banner-text").textContent = unreachable
    ? "Check your connection and that it is running."
    : "It may still be starting. If it stays like this, tell whoever runs it.";
  byId("banner-details").replaceChildren(forOperators(!unreachable && error.message ? [h("p", {}, sentence(error.message))] : []) ?? "");
  byId("banner").hidden = false;
  let left = Math.min(120, Math.max(1, Math.ceil(error.retryAfter ?? WAIT)));
  await new Promise((resolve) => {
    const tell = () => {
      byId("banner-wait").textContent = `Asking again in ${left} s`;
      left -= 1;
      if (left < 0) resolve();
    };
    byId("banner-again").onclick = resolve;
    tell();
    timer = setInterval(tell, 1000);
  });
  clearInterval(timer);
  byId("banner-wait").textContent = "Asking again…";
}

// --- start --------------------------------------------------------------------------------------

async function start() {
  await untilReady();
  try {
    const info = await load("v1/info");
    page.managed = info.documents !== false;
    page.authentication = info.authentication === true;
    page.rated = info.feedback === true;
    if (!page.chosen && info.collection) page.collection = info.collection;
  } catch (error) {
    page.managed ??= true;
    page.failed(error);
  }
  documents.managed = page.managed;
  showKey(!keyForm.hidden);
  await readCollections();
  if (!byId("documents").hidden) documents.refresh();
}

if (linked.get("q")) question.value = linked.get("q");
grow();
enable();
showCollections();
start().then(restore);
