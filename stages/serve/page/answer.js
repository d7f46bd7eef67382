// One message of the conversation: its text in pieces, its reasoning folded, and its figures.
// Text of a model enters the page as text nodes only.

import * as experts from "./experts.js";

export class Message {
  constructor(log, role, title) {
    this.element = document.createElement("article");
    this.element.dataset.role = role;
    const heading = document.createElement("h2");
    heading.textContent = title;
    this.element.append(heading);
    this.body = null;
    this.reasoning = null;
    this.text = "";
    this.log = log;
    log.append(this.element);
  }

  // Adds text; `counts` holds the FFN experts of the tokens that it is made of.
  add(text, counts = [], kind = "content") {
    const place = kind === "reasoning" ? this.reasoningPlace() : this.contentPlace();
    const stays = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
    if (kind === "content") this.text += text;
    if (counts.length) {
      const span = document.createElement("span");
      span.className = "token";
      span.tabIndex = -1;
      span.textContent = text;
      place.append(span);
      experts.add(span, counts);
    } else {
      place.append(text);
    }
    if (stays) this.log.scrollTop = this.log.scrollHeight;
  }

  contentPlace() {
    this.body ??= this.newPlace(this.element);
    return this.body;
  }

  reasoningPlace() {
    if (!this.reasoning) {
      const folded = document.createElement("details");
      const summary = document.createElement("summary");
      summary.textContent = "Reasoning";
      folded.append(summary);
      this.element.append(folded);
      this.reasoning = this.newPlace(folded);
    }
    return this.reasoning;
  }

  newPlace(parent) {
    const place = document.createElement("div");
    place.className = "text";
    if (this.element.dataset.role === "assistant") makeWalkable(place);
    parent.append(place);
    return place;
  }

  busy(state) {
    this.element.setAttribute("aria-busy", String(state));
  }

  figures(text) {
    this.foot ??= this.element.appendChild(document.createElement("footer"));
    this.foot.textContent = text;
    this.element.append(this.foot);
  }

  fail(text) {
    const line = document.createElement("p");
    line.className = "error";
    line.textContent = text;
    this.element.append(line);
  }
}

// An answer is one stop of the Tab key; arrow keys, Home and End move between its tokens.
function makeWalkable(place) {
  place.tabIndex = 0;
  place.setAttribute("role", "group");
  place.setAttribute("aria-label", "Text of the answer; arrow keys move between tokens");
  place.addEventListener("keydown", (event) => {
    const tokens = [...place.querySelectorAll(".token")];
    const at = tokens.indexOf(document.activeElement);
    const target = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (target === undefined || !tokens[target]) return;
    event.preventDefault();
    tokens[target].focus();
  });
}
