// Talks to the service: requests, server-sent events, and what went wrong in plain words.

const KEY = "rag.api_key";
export const ROOT = new URL("../", import.meta.url); // the page is at <root>/, this file at <root>/page/

/** The API key of this tab; it is gone when the tab is closed. */
export const apiKey = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  },
};

/** The service refused, failed, or cannot be reached. */
export class ApiError extends Error {
  constructor(body = {}, { status = 0, requestId = "", retryAfter = null } = {}) {
    super(body.message || "");
    this.code = body.code || "";
    this.step = body.step || "";
    this.param = body.param || "";
    this.retryable = body.retryable ?? (status === 0 || status >= 500);
    this.requestId = body.request_id || requestId;
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** Path of a document; its id is a path itself, and stays one. */
export function documentPath(id, collection) {
  const path = id.split("/").map(encodeURIComponent).join("/");
  return `v1/documents/${path}?collection=${encodeURIComponent(collection)}`;
}

/** Send a request; returns the response when it is a success, throws ApiError when it is not. */
export async function send(path, { method = "GET", json, form, accept, signal } = {}) {
  const headers = { Accept: accept ?? "application/json" };
  if (json !== undefined) headers["Content-Type"] = "application/json";
  const key = apiKey.get();
  if (key) headers.Authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(new URL(path, ROOT), {
      method,
      headers,
      body: json !== undefined ? JSON.stringify(json) : form,
      signal,
      cache: "no-store",
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError({ code: "unreachable" });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** As `send`, for an answer in JSON. */
export async function load(path, options) {
  const response = await send(path, options);
  return parse(await response.text(), requestId(response));
}

async function refusal(response) {
  let body;
  try {
    body = (await response.json()).error;
  } catch {
    // a proxy in between answers as it likes
  }
  const wait = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  return new ApiError(body && typeof body === "object" ? body : {}, {
    status: response.status,
    requestId: requestId(response),
    retryAfter: Number.isFinite(wait) ? wait : null,
  });
}

const requestId = (response) => response.headers.get("X-Request-Id") ?? "";

function parse(text, id) {
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiError({ code: "bad_answer", retryable: true, request_id: id });
  }
}

/**
 * Send a request and yield what it streams as {name, data}; ends when the answer is complete.
 * A service that does not stream gives one event, named `otherwise`.
 */
export async function* stream(path, options, otherwise) {
  const response = await send(path, { ...options, accept: "text/event-stream" });
  const id = requestId(response);
  if (!(response.headers.get("Content-Type") ?? "").startsWith("text/event-stream")) {
    yield { name: otherwise, data: parse(await response.text(), id) };
    return;
  }
  const parser = new EventParser();
  const reader = response.body.getReader();
  try {
    for (;;) {
      let block;
      try {
        block = await reader.read();
      } catch (error) {
        if (options.signal?.aborted) throw error;
        throw new ApiError({ code: "broken", retryable: true, request_id: id });
      }
      if (block.done) throw new ApiError({ code: "broken", retryable: true, request_id: id });
      for (const { name, data } of parser.push(block.value)) {
        if (data === "[DONE]") return;
        const value = parse(data, id);
        if (name === "error") throw new ApiError(value.error ?? {}, { requestId: id });
        yield { name, data: value };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Server-sent events from bytes cut anywhere, also within a character or a line end. */
export class EventParser {
  #decoder = new TextDecoder();
  #rest = "";
  #afterCr = false;
  #name = "";
  #data = [];

  /** Take the next bytes; returns the events they complete. */
  push(bytes) {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (this.#afterCr && text) {
      if (text[0] === "\n") text = text.slice(1);
      this.#afterCr = false;
    }
    if (text.endsWith("\r")) this.#afterCr = true;
    const lines = (this.#rest + text).split(/\r\n|\r|\n/);
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) events.push({ name: this.#name, data: this.#data.join("\n") });
        this.#name = "";
        this.#data = [];
        continue;
      }
      const [, field, value] = /^([^:]*)(?:: ?([^]*))?$/.exec(line);
      if (field === "event") this.#name = value ?? "";
      else if (field === "data") this.#data.push(value ?? "");
    }
    return events;
  }
}

const OPERATOR = "If it stays like this, tell whoever runs the service.";
const AGAIN = "Try again in a moment.";

const WORDS = {
  unreachable: ["The service cannot be reached", "Check your connection and that it is running, then try again."],
  broken: ["The connection broke before the answer was complete", "Try again."],
  bad_answer: ["The service answered with something this page cannot read", "Reload the page, then try again."],
  invalid_request: ["The service did not accept this", "Change what the message names, then ask again."],
  body_too_large: ["That is too large", "Send fewer or smaller files, or a shorter question."],
  unsupported_media_type: ["The service cannot read this kind of file", "Use txt, md, html, pdf, docx, odt, rtf, epub, pptx, xlsx, xls, ods, csv, eml, json, xml, yaml, ipynb, org, py or zip."],
  collection_not_found: ["This collection does not exist", "Choose another one, or add documents to create it."],
  document_not_found: ["This document is not in the collection", "It may have been deleted or renamed."],
  document_unreadable: ["This document cannot be read", "Check that it opens elsewhere, then add it again."],
  collection_mismatch: ["This collection was built differently", "It must be indexed again with the present settings."],
  in_progress: ["This is being done already", AGAIN],
  no_context: ["Nothing in the documents supports an answer", "Use other words, or add documents about it."],
  unauthenticated: ["The service needs an API key", "Enter your key at the top of the page, then try again."],
  forbidden: ["This is not allowed", "Ask whoever runs the service for access."],
  quota_exceeded: ["Too many questions in a short time", "Wait a little, then try again."],
  store_locked: ["Another process is writing to the documents", AGAIN],
  storage_full: ["There is no room left for documents", "Delete documents, or ask whoever runs the service."],
  llm_rate_limited: ["The language model is busy", AGAIN],
  llm_timeout: ["The language model took too long", "Try again, or ask for fewer passages."],
  llm_stream_broken: ["The language model stopped in the middle", "Try again."],
  deadline_exceeded: ["This took too long", "Try again, or ask for fewer passages."],
  not_supported: ["This installation does not offer that", "Ask whoever runs the service."],
  overloaded: ["The service is busy", AGAIN],
  draining: ["The service is restarting", AGAIN],
  not_ready: ["The service is still starting", AGAIN],
};
const FAMILIES = [
  [/^llm_/, ["The language model did not give an answer", `Try again. ${OPERATOR}`]],
  [/^(retriever|embedder)_/, ["The search did not answer", `Try again. ${OPERATOR}`]],
  [/misconfigured$/, ["The service is not set up correctly", OPERATOR]],
  [/^(module|engine)_/, ["A part of the service failed", `Try again. ${OPERATOR}`]],
];
// What the service says about these is for the person who asks; all else is for whoever runs it.
const FOR_READERS = new Set([
  "invalid_request", "body_too_large", "unsupported_media_type", "document_unreadable", "in_progress", "client_cancelled",
]);
const BY_STATUS = { 401: "unauthenticated", 403: "forbidden", 413: "body_too_large", 429: "quota_exceeded" };

/** What went wrong in plain words: {title, message, next}, and what the service said for its operator. */
export function explain(error) {
  if (!(error instanceof ApiError)) {
    return { title: "This page made a mistake", message: "", next: "Reload the page, then try again.", forOperators: String(error) };
  }
  const code = error.code || BY_STATUS[error.status] || "";
  const family = FAMILIES.find(([pattern]) => pattern.test(code));
  const [title, next] = wrongKey(code) ?? WORDS[code] ??
    family?.[1] ?? ["Something went wrong in the service", `Try again. ${OPERATOR}`];
  const wait = error.retryAfter;
  const seconds = wait === null ? "" : ` Wait ${Math.ceil(wait)} ${wait > 1 ? "seconds" : "second"} first.`;
  const said = error.message || (error.status ? `It answered with HTTP ${error.status}.` : "");
  const message = FOR_READERS.has(code) ? said : "";
  return { title, message, next: next + seconds, forOperators: message || code === "unauthenticated" ? "" : said };
}

const wrongKey = (code) =>
  code === "unauthenticated" && apiKey.get()
    ? ["The service does not know this API key", "Enter another key at the top of the page, then try again."]
    : null;
