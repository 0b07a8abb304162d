// A text token by token: coloured by surprise, and for each token how likely it was and what else could have come.

import { byId, element, icon, spoken, visible } from "./dom.js";

const LEVELS = [0.5, 1.5, 3, 5, 7]; // bits of surprise: from "there was hardly a choice" to 1 in 128 and beyond

const bits = (logprob) => -logprob / Math.LN2;

function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  return share >= 99.95 ? "100 %" : share >= 0.095 ? `${share.toFixed(1)} %` : share > 0 ? "< 0.1 %" : "0 %";
}

function level(token) {
  if (token.logprob === null) return "";
  const surprise = bits(token.logprob);
  const passed = LEVELS.filter((limit) => surprise >= limit).length;
  return passed ? ` s${passed}` : "";
}

/** Where each token stands in the text: {token, index, from, to} in UTF-16 units; a token's offset counts characters. */
function segments({ text, tokens }) {
  const place = places(text);
  const found = [];
  const starts = tokens.map((token) => place(token.offset ?? 0));
  const opening = starts.length ? starts[0] : text.length;
  if (opening > 0) found.push({ token: null, index: -1, from: 0, to: opening });
  tokens.forEach((token, index) => {
    const to = index + 1 < tokens.length ? starts[index + 1] : text.length;
    if (to > starts[index]) found.push({ token, index, from: starts[index], to });
  });
  return found;
}

function places(text) {
  if (!/[\ud800-\udfff]/.test(text)) return (offset) => Math.min(offset, text.length);
  const starts = [];
  let at = 0;
  for (const character of text) {
    starts.push(at);
    at += character.length;
  }
  return (offset) => starts[offset] ?? text.length;
}

/** The element of a message's text, which grows with it. */
export class TokenText {
  constructor(node) {
    this.node = node;
    this.painted = 0;
    this.current = -1; // the token that the keyboard is on
    this.element = element("span", { class: "tokens" });
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("pointerover", (event) => this.#over(event));
    this.element.addEventListener("pointerleave", () => popover.leave());
    this.element.addEventListener("click", (event) => this.#click(event));
    this.element.addEventListener("blur", () => this.#mark(-1));
  }

  /** Add what was written since the last time; the last token may have grown. */
  paint() {
    const all = segments(this.node);
    const from = Math.max(0, this.painted - 1);
    if (this.painted) this.element.lastChild.remove();
    this.element.append(...all.slice(from).map(({ token, index, from: start, to }) => {
      const text = this.node.text.slice(start, to);
      return token ? element("span", { class: `token${level(token)}`, "data-token": index }, text) : element("span", {}, text);
    }));
    this.painted = all.length;
  }

  /** Once it is whole, one stop of the Tab key, through whose tokens the arrow keys go. */
  finish(name) {
    this.paint();
    if (!this.node.tokens.length) return;
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", `${name}: arrow keys go through the tokens`);
  }

  #spans() {
    return [...this.element.querySelectorAll(".token")];
  }

  #key(event) {
    if (event.target !== this.element || event.altKey || event.ctrlKey || event.metaKey) return;
    const spans = this.#spans();
    const moves = { ArrowRight: this.current + 1, ArrowLeft: this.current - 1, Home: 0, End: spans.length - 1 };
    if (event.key in moves) {
      event.preventDefault();
      this.#mark(Math.min(spans.length - 1, Math.max(0, moves[event.key])));
      popover.show(this, spans[this.current], { announced: true });
    } else if (event.key === "Enter" && this.current >= 0) {
      event.preventDefault();
      popover.show(this, spans[this.current], { pinned: true });
    }
  }

  #mark(index) {
    const spans = this.#spans();
    spans[this.current]?.classList.remove("current");
    this.current = index;
    spans[index]?.classList.add("current");
  }

  #over(event) {
    const span = event.target.closest(".token");
    if (span && event.pointerType !== "touch") popover.show(this, span);
  }

  #click(event) {
    const span = event.target.closest(".token");
    if (!span || String(getSelection())) return; // text that is being selected is no click
    popover.show(this, span, { pinned: true });
  }
}

/** What is known of one token. Pinned by a click or Enter, it offers to write on with another one. */
class Popover {
  constructor() {
    this.text = null;
    this.span = null;
    this.pinned = false;
    this.actions = { instead: () => {}, attention: () => {}, announce: () => {} }; // set by the page
    document.addEventListener("pointerdown", (event) => {
      if (this.pinned && !this.box.contains(event.target)) this.hide();
    });
    document.addEventListener("scroll", () => (this.pinned ? this.#place() : this.hide()), true);
  }

  get box() {
    return byId("popover");
  }

  show(text, span, { pinned = false, announced = false } = {}) {
    if (this.pinned && !pinned) return;
    this.#unmark();
    Object.assign(this, { text, span, pinned });
    span.classList.add("shown");
    const token = text.node.tokens[Number(span.dataset.token)];
    this.box.replaceChildren(...this.#content(token));
    this.box.classList.toggle("pinned", pinned);
    this.box.setAttribute("role", pinned ? "dialog" : "tooltip");
    this.box.hidden = false;
    this.#place();
    if (announced) this.actions.announce(this.#words(token));
    if (pinned) this.box.querySelector("button")?.focus();
  }

  leave() {
    if (!this.pinned) this.hide();
  }

  hide() {
    if (this.box.hidden) return;
    const returns = this.pinned && this.box.contains(document.activeElement);
    this.box.hidden = true;
    this.pinned = false;
    this.#unmark();
    if (returns) this.text.element.focus({ preventScroll: true });
  }

  #unmark() {
    this.span?.classList.remove("shown");
  }

  #content(token) {
    const known = token.logprob !== null;
    const head = element("div", { class: "popover-head" },
      element("code", {}, visible(token.text)),
      element("strong", {}, known ? percent(token.logprob) : "not known"),
      known ? element("span", { class: "muted" }, `${bits(token.logprob).toFixed(1)} bits of surprise`) : null);
    const rows = token.alternatives.map((other) => this.#row(token, other));
    const look = this.pinned
      ? element("button", { type: "button", class: "quiet", onclick: () => this.#act("attention") }, icon("eye"), "What it looked at")
      : null;
    const hint = rows.length && this.pinned ? element("p", { class: "hint" }, "Choose another one to write on from there.") : null;
    return [head, rows.length ? element("div", { class: "alternatives" }, ...rows) : null, hint, look].filter(Boolean);
  }

  #row(token, other) {
    const chosen = other.text === token.text;
    const bar = element("span", { class: "bar" });
    bar.style.setProperty("--share", Math.exp(other.logprob ?? -Infinity));
    const cells = [element("code", {}, visible(other.text)), bar, element("span", { class: "figure" }, percent(other.logprob ?? -Infinity))];
    if (!this.pinned || chosen) return element("div", { class: `alternative${chosen ? " chosen" : ""}` }, ...cells);
    const label = `Write ${spoken(other.text)} instead, ${percent(other.logprob ?? -Infinity)}`;
    return element("button", { type: "button", class: "alternative", "aria-label": label, onclick: () => this.#act("instead", other) }, ...cells);
  }

  #act(name, ...more) {
    const { node } = this.text;
    const index = Number(this.span.dataset.token);
    this.hide();
    this.actions[name](node, index, ...more);
  }

  #words(token) {
    const others = token.alternatives.filter((other) => other.text !== token.text).slice(0, 3);
    const said = others.map((other) => `${spoken(other.text)} ${percent(other.logprob ?? -Infinity)}`).join(", ");
    const own = token.logprob === null ? "" : `, ${percent(token.logprob)}`;
    return `${spoken(token.text)}${own}${said ? `; else ${said}` : ""}`;
  }

  /** Below the token where there is room, else above it. */
  #place() {
    const edge = 8;
    const token = this.span.getClientRects()[0] ?? this.span.getBoundingClientRect();
    const { width, height } = this.box.getBoundingClientRect();
    const left = Math.max(edge, Math.min(token.left - 12, innerWidth - width - edge));
    const below = token.bottom + 6;
    const top = below + height + edge <= innerHeight ? below : Math.max(edge, token.top - height - 6);
    this.box.style.setProperty("left", `${left}px`);
    this.box.style.setProperty("top", `${top}px`);
  }
}

export const popover = new Popover();
