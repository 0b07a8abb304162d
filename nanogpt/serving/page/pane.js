// One model and its conversations: they are drawn, written on, edited, and gone through version by version.

import { complete, examples } from "./api.js";
import { play, playStops, Tree, wholeText } from "./conversation.js";
import { element, iconButton, redraw } from "./dom.js";
import { ModelChoice, shortName } from "./models.js";
import { TokenText } from "./tokens.js";

const ALTERNATIVES = 8; // shown for each token; the server states up to 20
const NEAR_END = 60; // pixels from the end within which the page follows the text

export class Pane {
  /** `page`: {mode, names, system, settings, ended(pane, node), changed(), failed(pane, node), look(...)}. */
  constructor(place, page) {
    this.page = page;
    this.place = place;
    this.trees = { chat: new Tree(), text: new Tree() };
    this.writing = null; // an AbortController while a text is written
    this.editing = null; // the message that is being edited
    this.texts = new WeakMap(); // message -> TokenText
    this.prompts = { chat: [], text: [] };
    this.choice = new ModelChoice(place, () => this.#modelChosen());
    this.content = element("div", { class: "content" });
    this.scroller = element("div", { class: "scroller", tabindex: -1 }, this.content);
    this.toEnd = iconButton("down", "Go to the end", () => this.follow(true), { class: "icon-button to-end", hidden: true });
    this.scroller.addEventListener("scroll", () => (this.toEnd.hidden = this.#isAtEnd()));
    this.element = element("section", { class: "pane", "aria-label": `Model ${place}` },
      element("div", { class: "pane-head" }, this.choice.element), this.scroller, this.toEnd);
  }

  get tree() {
    return this.trees[this.page.mode];
  }

  get model() {
    return this.choice.value;
  }

  get last() {
    return this.tree.path().at(-1) ?? this.tree.root;
  }

  get lastAnswer() {
    return this.tree.path().findLast((node) => node.role === "assistant") ?? null;
  }

  // Writing

  /** A person's words, and the answer. Without words a text is continued. */
  async send(text) {
    this.#dropFailed();
    const parent = this.last;
    await this.write(text || this.page.mode === "chat" ? this.tree.add(parent, "user", text) : parent);
  }

  /** A new answer to `parent`; `beginning` is what it already says. */
  async write(parent, beginning = { text: "", tokens: [] }) {
    const node = this.tree.add(parent, "assistant", beginning.text);
    node.tokens = [...beginning.tokens];
    await this.goOn(node);
  }

  /** Words behind what the answer `node` already says. */
  async goOn(node) {
    this.stop();
    const writing = (this.writing = new AbortController());
    Object.assign(node, { model: this.model, finish: null, error: null, stats: { tokens: 0, rate: null, first: null, notes: [] } });
    this.render();
    this.follow(true);
    this.page.changed();
    try {
      await this.#receive(node, writing.signal);
    } catch (error) {
      if (error.name === "AbortError") node.finish = "stopped";
      else node.error = error;
    }
    if (this.writing === writing) this.writing = null;
    const follows = this.#isAtEnd();
    this.render();
    this.follow(follows);
    this.page.changed();
    if (node.error) this.page.failed(this, node);
    else this.page.ended(this, node);
  }

  stop() {
    this.writing?.abort();
  }

  again(node) {
    return this.write(node.parent);
  }

  /** A sibling of the answer that says another token at `index`, and goes on from there. */
  instead(node, index, other) {
    const token = { text: other.text, offset: node.tokens[index].offset, logprob: other.logprob, alternatives: node.tokens[index].alternatives };
    const before = [...node.text].slice(0, token.offset).join("");
    return this.write(node.parent, { text: before + other.text, tokens: [...node.tokens.slice(0, index), token] });
  }

  /** What the model had read before it wrote `node`. */
  promptOf(node) {
    const { mode, names, system } = this.page;
    return mode === "chat" ? play(node.parent, names, system) : wholeText(node.parent);
  }

  async #receive(node, signal) {
    const { mode, names, settings } = this.page;
    const request = {
      model: this.model,
      prompt: this.promptOf(node) + node.text,
      logprobs: ALTERNATIVES,
      ...settings.request(mode === "chat" ? playStops(names) : [], node.parent.children.indexOf(node)),
    };
    const base = [...node.text].length;
    const began = performance.now();
    let origin = null; // of the server's offsets
    let counted = base;
    for await (const part of complete(request, signal)) {
      node.text += part.text;
      for (const token of part.tokens) {
        origin ??= token.offset;
        const offset = token.offset === null ? counted : base + token.offset - origin;
        node.tokens.push({ ...token, offset });
        counted += [...token.text].length;
      }
      this.#measure(node, part, began);
      node.finish = part.finish ?? node.finish;
      this.#paintSoon(node);
    }
  }

  #measure(node, part, began) {
    const stats = node.stats;
    const now = performance.now();
    if (part.text || part.tokens.length) {
      stats.first ??= now - began;
      stats.tokens += Math.max(1, part.tokens.length);
      const seconds = (now - began - stats.first) / 1000;
      if (seconds > 0.2) stats.rate = (stats.tokens - 1) / seconds;
    }
    stats.tokens = part.usage?.completion_tokens ?? stats.tokens;
    const more = part.nanogpt;
    if (!more) return;
    stats.rate = more.tokens_per_second ?? stats.rate;
    if (more.slid) stats.notes.push("The text is longer than the model can look back: what came first is forgotten.");
    const unknown = unknownIn(more.unknown);
    if (unknown) stats.notes.push(`Outside the model's alphabet: ${unknown}. It was never trained on what stands for them.`);
  }

  /** An answer that failed before its first word leaves no trace. */
  #dropFailed() {
    const { last } = this;
    if (!last.error || last.text) return;
    last.parent.children.pop();
    last.parent.pick = Math.max(0, last.parent.children.length - 1);
    if (last.parent.role === "user" && !last.parent.children.length) {
      const asked = last.parent;
      asked.parent.children.splice(asked.parent.children.indexOf(asked), 1);
      asked.parent.pick = Math.max(0, asked.parent.children.length - 1);
    }
  }

  // Drawing

  #paintSoon(node) {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = null;
      const follows = this.#isAtEnd();
      this.#textOf(node).paint();
      const line = this.content.querySelector(".stats.live");
      if (line) line.textContent = figures(node);
      if (follows) this.follow(true);
    });
  }

  #textOf(node) {
    if (!this.texts.has(node)) this.texts.set(node, new TokenText(node));
    return this.texts.get(node);
  }

  #isAtEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_END;
  }

  /** Scroll to the end, if the page `follows` the text. */
  follow(follows) {
    if (follows) this.scroller.scrollTop = this.scroller.scrollHeight;
    this.toEnd.hidden = this.#isAtEnd();
  }

  render() {
    const path = this.tree.path();
    const { mode } = this.page;
    this.content.setAttribute("aria-busy", String(Boolean(this.writing)));
    const drawn = path.length === 0 ? [this.#empty()] : mode === "chat" ? [this.#scene(path)] : this.#document(path);
    redraw(this.content, drawn);
    this.content.querySelector(".editor textarea")?.focus();
  }

  #empty() {
    const { mode } = this.page;
    const { model } = this.choice;
    const prompts = this.prompts[mode].map((prompt) =>
      element("li", {}, element("button", { type: "button", class: "example", onclick: () => this.page.begin(prompt) },
        prompt.trimEnd())));
    return element("div", { class: "empty" },
      element("h2", {}, mode === "chat" ? "Play a scene" : "Begin a text"),
      element("p", {}, !model ? "The server offers no model yet. Train one: python -m flows.full_run --budget 10m"
        : mode === "chat" ? "Say something, and the model writes the next part." : "Write its first words, and the model goes on."),
      prompts.length ? element("ul", { class: "examples", "aria-label": "Examples" }, ...prompts) : null);
  }

  #scene(path) {
    const { names } = this.page;
    return element("ol", { class: "scene" }, ...path.map((node, place) => {
      const mine = node.role === "user";
      if (node === this.editing) return element("li", { class: "message user" }, this.#editor(node));
      const who = element("h2", { class: "who" }, mine ? names.user : names.assistant,
        mine ? null : element("span", { class: "by" }, this.#byline(node)));
      const body = mine ? element("div", { class: "words" }, node.text) : element("div", { class: "words" }, this.#written(node, names.assistant));
      const tools = mine ? this.#toolsOfWords(node, place) : this.#toolsOfAnswer(node, place);
      return element("li", { class: `message ${node.role}` }, who, body, ...tools);
    }));
  }

  /** One running text; what a person wrote and what the model wrote differ in looks alone. */
  #document(path) {
    const running = path.flatMap((node, place) => {
      if (node === this.editing) return [this.#editor(node)];
      const versions = this.#versions(node, place);
      if (node.role === "user") return [versions, element("span", { class: "given" }, node.text), this.#editButton(node, place, "inline")];
      return [versions, this.#written(node, "Text of the model")];
    });
    const last = path.at(-1);
    const tools = last.role === "assistant" ? this.#toolsOfAnswer(last, path.length - 1, false) : [];
    return [element("div", { class: "document" }, ...running.filter(Boolean)), ...tools];
  }

  #written(node, name) {
    const text = this.#textOf(node);
    if (this.#isWriting(node)) text.paint();
    else text.finish(name);
    text.element.classList.toggle("writing", this.#isWriting(node));
    text.element.dataset.key = `text ${node.parent.children.indexOf(node)}`;
    return text.element;
  }

  #isWriting(node) {
    return Boolean(this.writing) && node === this.last;
  }

  #byline(node) {
    const model = this.choice.models.find((one) => one.id === node.model);
    return model ? shortName(model) : node.model ?? "";
  }

  #toolsOfWords(node, place) {
    return [element("div", { class: "tools" }, this.#versions(node, place), this.#editButton(node, place))];
  }

  #toolsOfAnswer(node, place, withVersions = true) {
    const busy = Boolean(this.writing);
    if (this.#isWriting(node)) return [element("p", { class: "stats live" }, figures(node))];
    if (node.error && !node.text) return [this.#failure(node)];
    const tool = (name, label, onclick) => iconButton(name, label, onclick, { "data-key": `${place} ${name}`, disabled: busy });
    const chat = this.page.mode === "chat";
    const last = node === this.last;
    const tools = element("div", { class: "tools" },
      withVersions ? this.#versions(node, place) : null,
      tool("again", "Write it again", () => this.again(node)),
      !chat ? tool("more", "Write on", () => this.write(node))
        : last && node.finish !== "stop" && node.text ? tool("more", "Write on", () => this.goOn(node)) : null,
      node.text ? tool("eye", "Attention of the last token", () => this.page.look(this, node)) : null,
      node.text ? tool("copy", "Copy the text", () => this.page.copy(chat ? node.text.trim() : wholeText(node))) : null,
      element("span", { class: "stats" }, figures(node)));
    const before = chat ? Tree.upTo(node).slice(0, -1) : []; // a scene says once what is true of all that follows
    const said = new Set(before.flatMap((earlier) => earlier.stats?.notes ?? []));
    const notes = (node.stats?.notes ?? []).filter((note) => !said.has(note)).map((note) => element("p", { class: "note" }, note));
    return [node.error ? this.#failure(node) : null, tools, ...notes].filter(Boolean);
  }

  #failure(node) {
    return element("div", { class: "failure", role: "alert" }, element("p", {}, node.error.message),
      element("button", { type: "button", class: "quiet", "data-key": "retry", onclick: () => this.goOn(node) }, "Try again"));
  }

  /** ‹ 2/3 › where there are several versions. */
  #versions(node, place) {
    const { children, pick } = node.parent;
    if (children.length < 2) return null;
    const button = (name, label, by) => iconButton(name, label, () => this.turn(node, by),
      { "data-key": `${place} ${name}`, disabled: Boolean(this.writing) || pick + by < 0 || pick + by >= children.length });
    return element("span", { class: "versions" }, button("left", "Previous version", -1),
      element("span", { class: "figure" }, `${pick + 1}/${children.length}`), button("right", "Next version", 1));
  }

  /** Show the version before or after `node`, with all that followed it. */
  turn(node, by) {
    Tree.turn(node, by);
    this.editing = null;
    this.render();
    this.page.changed();
    const { children, pick } = node.parent;
    const shown = children[pick];
    this.page.announce(`Version ${pick + 1} of ${children.length}: ${this.#byline(shown)} ${shown.text.slice(0, 200)}`);
  }

  #editButton(node, place, more = "") {
    return iconButton("edit", "Edit", () => this.edit(node), { class: `icon-button ${more}`, "data-key": `${place} edit`, disabled: Boolean(this.writing) });
  }

  edit(node) {
    this.editing = node;
    this.render();
  }

  /** The edited words become another version; the old one stays. */
  #editor(node) {
    const field = element("textarea", { "aria-label": "Edit the words", rows: Math.min(10, node.text.split("\n").length + 1) });
    field.value = node.text;
    const close = () => {
      this.editing = null;
      this.render();
    };
    const save = () => {
      this.editing = null;
      this.write(this.tree.add(node.parent, "user", field.value));
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        close();
      } else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        save();
      }
    });
    return element("div", { class: "editor" }, field, element("div", { class: "editor-tools" },
      element("button", { type: "button", class: "quiet", onclick: close }, "Cancel"),
      element("button", { type: "button", class: "main", onclick: save }, "Write")));
  }

  // The model

  async showModels(models, chosen) {
    const before = this.model;
    this.choice.show(models, chosen);
    if (this.model !== before || !this.prompts.text.length) await this.#modelChosen();
  }

  async #modelChosen() {
    const { model } = this;
    this.page.modelChosen();
    if (!model) return this.render();
    const found = await examples(model).catch(() => ({}));
    if (model !== this.model) return;
    const texts = (list) => (Array.isArray(list) ? list.filter((text) => typeof text === "string").slice(0, 4) : []);
    this.prompts = { chat: texts(found.chat), text: texts(found.text) };
    if (this.tree.isEmpty) this.render();
  }
}

function figures(node) {
  const { tokens, rate, first } = node.stats ?? {};
  const stopped = { length: "longest answer reached", stopped: "stopped" }[node.finish];
  return [
    tokens ? `${tokens.toLocaleString("en")} token${tokens === 1 ? "" : "s"}` : null,
    rate ? `${rate >= 100 ? Math.round(rate).toLocaleString("en") : rate.toFixed(1)} tokens/s` : null,
    first ? `first after ${first < 1000 ? `${Math.round(first)} ms` : `${(first / 1000).toFixed(1)} s`}` : null,
    stopped,
  ].filter(Boolean).join(" · ");
}

/** The characters that the model cannot read, however the server lists them. */
function unknownIn(unknown) {
  if (!unknown || typeof unknown !== "object") return "";
  const characters = Object.keys(unknown.characters ?? unknown);
  return characters.slice(0, 8).join(" ") + (characters.length > 8 ? " …" : "");
}
