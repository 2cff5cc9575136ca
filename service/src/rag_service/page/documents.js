// The panel of a collection: its documents, and new ones with progress and a report.

import { documentPath, load, send, stream } from "./api.js";
import { announce, byId, closePanel, confirm, count, h, icon, name, openPanel, sentence, titleOf } from "./dom.js";
import { showDocument } from "./passage.js";
import { problem } from "./turn.js";

const FILTER_FROM = 8; // documents; fewer are seen at a glance
const SHOWN = 300; // rows; the filter finds the others

/** The documents of the collection the page is on. */
export class Documents {
  #page;
  #documents = [];
  #upload = null;
  #reading = 0;

  /** `page` knows the collection and is told of changes: {collection, changed(), failed(error)}. */
  constructor(page) {
    this.#page = page;
    byId("show-documents").addEventListener("click", (event) => this.toggle(event.currentTarget));
    byId("welcome-add").addEventListener("click", (event) => this.open(event.currentTarget));
    byId("documents-close").addEventListener("click", closePanel);
    byId("documents-filter").addEventListener("input", () => this.#list());
    byId("ingest-stop").addEventListener("click", () => this.#stop());
    byId("delete-collection").addEventListener("click", () => this.#deleteCollection());
    byId("files").addEventListener("change", (event) => {
      const files = [...event.target.files].map((file) => [file, file.name]);
      event.target.value = "";
      this.ingest(files);
    });
    this.#takeDrops();
  }

  toggle(opener) {
    if (byId("documents").hidden) this.open(opener);
    else closePanel();
  }

  open(opener) {
    openPanel("documents", opener);
    this.refresh();
  }

  /** Whether documents can be added and deleted in this installation. */
  set managed(managed) {
    byId("drop").hidden = !managed;
    byId("new-collection").hidden = !managed;
    byId("documents").classList.toggle("read-only", !managed);
    this.#managed = managed;
  }

  #managed = true;

  /** Read the list again. */
  async refresh() {
    const { collection } = this.#page;
    const reading = ++this.#reading;
    let failure = null;
    let documents = [];
    try {
      documents = await listed(collection);
    } catch (error) {
      if (error.code !== "collection_not_found") failure = error;
    }
    if (reading !== this.#reading) return;
    this.#documents = documents;
    byId("documents-title").replaceChildren("Documents in ", name(collection));
    byId("documents-facts").textContent = documents.length
      ? `${count(documents.length, "document")}, ${count(documents.reduce((sum, one) => sum + one.chunks, 0), "passage")}`
      : "";
    byId("documents-filter").hidden = documents.length < FILTER_FROM;
    byId("delete-collection").hidden = !this.#managed || !this.#page.exists;
    const empty = byId("documents-empty");
    empty.hidden = documents.length > 0;
    if (failure?.status === 501 || failure?.status === 404) {
      empty.textContent = "The documents of this installation cannot be listed here.";
    } else if (failure) {
      empty.replaceChildren(problem(failure));
      this.#page.failed(failure);
    } else {
      empty.textContent = "No documents yet.";
    }
    this.#list();
  }

  #list() {
    const wanted = byId("documents-filter").hidden ? "" : byId("documents-filter").value.trim().toLowerCase();
    const fits = this.#documents.filter((one) => `${one.title}\n${one.document_id}`.toLowerCase().includes(wanted));
    const rows = fits.slice(0, SHOWN).map((one) => this.#row(one));
    if (fits.length > SHOWN) {
      rows.push(h("li", { class: "remark" }, `${count(fits.length - SHOWN, "more document")}; filter by name to see them.`));
    }
    if (this.#documents.length && !fits.length) rows.push(h("li", { class: "remark" }, "No document has this in its name."));
    byId("documents-list").replaceChildren(...rows);
  }

  #row(one) {
    const title = titleOf(one);
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", class: "file", onclick: (event) => this.#show(one, event.currentTarget) },
        h("span", { class: "title" }, name(title)),
        h(
          "span",
          { class: "facts" },
          title === one.document_id ? null : h("span", { class: "id" }, name(one.document_id)),
          h("span", {}, count(one.chunks, "passage")),
        ),
      ),
      this.#managed &&
        h(
          "button",
          {
            type: "button",
            class: "quiet round danger",
            "aria-label": `Delete ${title}`,
            title: "Delete",
            onclick: () => this.#delete(one),
          },
          icon("trash"),
        ),
    );
  }

  #show(one, opener) {
    showDocument(this.#page.collection, one, opener);
  }

  async #delete(one) {
    const { collection } = this.#page;
    const title = titleOf(one);
    const sure = await confirm({
      title: `Delete “${title}”?`,
      text: `It is taken out of ${collection}, and answers no longer find it. The file it came from is not touched.`,
      action: "Delete document",
    });
    if (!sure) return;
    try {
      await send(documentPath(one.document_id, collection), { method: "DELETE" });
      this.#report(h("p", {}, "Deleted ", name(title), "."));
      announce(`Deleted ${title}`);
    } catch (error) {
      this.#fail(error);
    }
    await this.#page.changed();
    await this.refresh();
    byId("documents-title").focus({ preventScroll: true });
  }

  async #deleteCollection() {
    const { collection } = this.#page;
    const sure = await confirm({
      title: `Delete the collection “${collection}”?`,
      text: `All its documents are taken out (${count(this.#documents.length, "document")}). The files they came from are not touched.`,
      action: "Delete collection",
    });
    if (!sure) return;
    try {
      await send(`v1/collections/${encodeURIComponent(collection)}`, { method: "DELETE" });
      this.#report(h("p", {}, "Deleted the collection ", name(collection), "."));
      announce(`Deleted the collection ${collection}`);
    } catch (error) {
      this.#fail(error);
    }
    await this.#page.changed();
    await this.refresh();
    byId("documents-title").focus({ preventScroll: true });
  }

  /** Add files, given as [file, name]. */
  async ingest(files) {
    if (!files.length) return;
    if (this.#upload) {
      announce("Documents are being added already");
      return;
    }
    const { collection } = this.#page;
    const form = new FormData();
    for (const [file, path] of files) form.append("files", file, path);
    this.#upload = { sending: new AbortController(), id: null };
    this.#report();
    this.#progress(`Sending ${count(files.length, "file")}…`);
    byId("ingest").hidden = false;
    byId("ingest-stop").disabled = false;
    byId("drop").classList.add("busy");
    byId("files").disabled = true;
    announce(`Adding ${count(files.length, "file")} to ${collection}`);
    try {
      await this.#follow(`v1/documents?collection=${encodeURIComponent(collection)}`, { method: "POST", form });
    } catch (error) {
      if (this.#upload.sending.signal.aborted || error.code === "client_cancelled") {
        this.#report(h("p", {}, error.code ? `Stopped: ${error.message}.` : "Stopped; nothing was added."));
        announce("Stopped");
      } else {
        this.#fail(error);
      }
    } finally {
      this.#upload = null;
      byId("ingest").hidden = true;
      byId("drop").classList.remove("busy");
      byId("files").disabled = false;
    }
    await this.#page.changed();
    await this.refresh();
  }

  /** Show how an ingest goes; a connection that breaks is taken up again, for the ingest goes on. */
  async #follow(path, options, attempts = 3) {
    const upload = this.#upload;
    try {
      for await (const { name: event, data } of stream(path, { ...options, signal: upload.sending.signal }, "report")) {
        upload.id = data.id ?? upload.id;
        if (event === "report") this.#showReport(data);
        else if (event === "progress") this.#showProgress(data);
      }
    } catch (error) {
      if (error.code !== "broken" || !upload.id || !attempts) throw error;
      await this.#follow(`v1/ingests/${encodeURIComponent(upload.id)}/events`, {}, attempts - 1);
    }
  }

  /** Stop adding files: the service is told once it has them, and says itself how it ended. */
  async #stop() {
    const upload = this.#upload;
    if (!upload) return;
    this.#progress("Stopping…");
    byId("ingest-stop").disabled = true;
    try {
      if (upload.id) await send(`v1/ingests/${encodeURIComponent(upload.id)}`, { method: "DELETE" });
      else upload.sending.abort();
    } catch {
      upload.sending.abort();
    }
  }

  /** Show a place in the queue, or documents and passages done. */
  #showProgress(data) {
    if (byId("ingest-stop").disabled) return; // it says that it is being stopped
    if (data.ahead) {
      this.#progress(`Waiting: ${count(data.ahead, "upload")} ${data.ahead === 1 ? "goes" : "go"} first`);
    } else if (!data.document_id) {
      this.#progress(data.total ? `Reading ${count(data.total, "file")}…` : "Reading…");
    } else {
      const passages = `${data.passages.toLocaleString("en")} of ${count(data.passages_total, "passage")}`;
      const bar = data.total > 1 ? data : { done: data.passages, total: data.passages_total };
      this.#progress(`${data.done} of ${count(data.total, "document")}, ${passages}: ${data.document_id}`, bar);
    }
  }

  #progress(label, { done, total } = {}) {
    byId("ingest-label").textContent = label;
    const bar = byId("ingest-bar");
    if (total) {
      bar.max = total;
      bar.value = done;
    } else {
      bar.removeAttribute("value");
    }
  }

  #report(...content) {
    byId("ingest-report").replaceChildren(...content);
    byId("ingest-report").hidden = !content.length;
  }

  #fail(error) {
    this.#report(problem(error));
    this.#page.failed(error);
  }

  #showReport(report) {
    byId("ingest").hidden = true;
    const groups = ["added", "updated", "unchanged", "deleted", "failed"]
      .filter((group) => report[group]?.length || group === "added")
      .map((group) => [group, report[group]?.length ?? 0]);
    const failed = report.failed ?? [];
    this.#report(
      h("dl", { class: "outcome" }, groups.map(([group, number]) =>
        h("div", { class: group }, h("dt", {}, group), h("dd", {}, number.toLocaleString("en"))))),
      ...(failed.length
        ? [
            h("h3", {}, "Not added"),
            h("ul", { class: "failed" }, failed.map((one) =>
              h("li", {}, h("strong", {}, name(one.document_id)), h("span", { dir: "auto" }, sentence(one.message))))),
          ]
        : []),
    );
    announce(groups.map(([group, number]) => `${number} ${group}`).join(", "));
  }

  // Files may be dropped anywhere on the page.
  #takeDrops() {
    let depth = 0;
    const overlay = byId("overlay");
    const carries = (event) => this.#managed && event.dataTransfer?.types.includes("Files");
    const over = (inside) => {
      depth = inside;
      overlay.hidden = depth <= 0;
    };
    addEventListener("dragenter", (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      byId("overlay-name").textContent = this.#page.collection;
      over(depth + 1);
    });
    addEventListener("dragleave", (event) => carries(event) && over(depth - 1));
    addEventListener("dragover", (event) => carries(event) && event.preventDefault());
    addEventListener("drop", async (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      over(0);
      const files = await dropped(event.dataTransfer);
      if (byId("documents").hidden) this.open(byId("show-documents"));
      this.ingest(files);
    });
  }
}

/** All documents of a collection; the service gives them a page at a time. */
async function listed(collection) {
  const path = `v1/documents?collection=${encodeURIComponent(collection)}`;
  const all = [];
  let next = "";
  do {
    const page = await load(next ? `${path}&after=${encodeURIComponent(next)}` : path);
    all.push(...page.documents);
    ({ next } = page);
  } while (next);
  return all;
}

/** Files of a drop with their names; a folder gives the files in it, with their paths. */
async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...transfer.files].map((file) => [file, file.name]);
  const files = [];
  const walk = async (entry) => {
    if (entry.name.startsWith(".")) return;
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      files.push([file, entry.fullPath.replace(/^\//, "")]);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const one of some) await walk(one);
    }
  };
  for (const entry of entries) await walk(entry);
  return files;
}
