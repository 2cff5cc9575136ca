// Whether an answer was right, as its reader says; and what would have been.

import { announce, h, icon } from "./dom.js";

let forms = 0;

/** Two thumbs, `buttons`, and a field for the right answer, `form`; `send(fields)` hands them on. */
export class Feedback {
  #send;
  #said = h("span", { class: "said" });

  constructor(send) {
    this.#send = send;
    this.up = this.#thumb("up", "This answer helped");
    this.down = this.#thumb("down", "This answer is wrong or missing");
    this.buttons = h("span", { class: "row thumbs", role: "group", "aria-label": "Rate this answer" }, this.up, this.down, this.#said);
    this.form = this.#makeForm();
  }

  #thumb(rating, label) {
    const button = h("button", { type: "button", class: "quiet round", "aria-label": label, "aria-pressed": "false", title: label }, icon(`thumb-${rating}`));
    button.addEventListener("click", () => this.#rate(rating));
    return button;
  }

  async #rate(rating) {
    if (!(await this.#give({ rating }))) return;
    this.up.setAttribute("aria-pressed", String(rating === "up"));
    this.down.setAttribute("aria-pressed", String(rating === "down"));
    this.form.hidden = rating === "up";
    if (rating === "down") this.form.querySelector("textarea").focus();
  }

  #makeForm() {
    forms += 1;
    const id = `right-answer-${forms}`;
    const text = h("textarea", { id, rows: "2", maxlength: "4000", dir: "auto" });
    const form = h(
      "form",
      { class: "right-answer", hidden: true },
      h("label", { for: id }, "What would be right? (optional)"),
      text,
      h(
        "div",
        { class: "row end" },
        h("button", { type: "button", class: "quiet", onclick: () => this.#close() }, "No, thanks"),
        h("button", { type: "submit", class: "main" }, "Send"),
      ),
    );
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const right = text.value.trim();
      if (!right || (await this.#give({ rating: "down", right_answer: right }))) this.#close();
    });
    return form;
  }

  #close() {
    this.form.hidden = true;
    this.down.focus();
  }

  /** Send a rating; a later one of the same answer replaces it. Returns whether it arrived. */
  async #give(fields) {
    try {
      await this.#send(fields);
    } catch {
      this.#say("That could not be sent; try again");
      return false;
    }
    this.#say(fields.right_answer ? "Thank you, noted" : "Thank you");
    return true;
  }

  #say(text) {
    this.#said.textContent = text;
    announce(text);
  }
}
