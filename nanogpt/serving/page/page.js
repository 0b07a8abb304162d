// The page as a whole: its panes, the composer, the tools at the top, keys, and what is kept.

import * as api from "./api.js";
import { AttentionView } from "./attention.js";
import { fromFile, LARGEST_FILE, toFile, Tree } from "./conversation.js";
import { byId, element, store, stored } from "./dom.js";
import { Pane } from "./pane.js";
import { Settings } from "./settings.js";
import { popover } from "./tokens.js";

const KEPT = "nanogpt.conversation";
const SCHEMES = ["system", "light", "dark"];
const NOTICE = 8_000; // milliseconds
const WIDE = matchMedia("(min-width: 1100px)");

class Page {
  constructor() {
    this.mode = "chat";
    this.names = { user: "ROMEO", assistant: "JULIET" };
    this.settings = new Settings();
    this.attention = new AttentionView();
    this.models = [];
    this.panes = [new Pane("A", this)];
    this.prompt = byId("prompt");
    byId("panes").append(this.panes[0].element);
    popover.actions = {
      announce: (words) => this.announce(words),
      instead: (node, index, other) => this.#paneOf(node).instead(node, index, other),
      attention: (node, index) => this.look(this.#paneOf(node), node, index),
    };
    this.#listen();
    this.#restore();
    this.#showScheme();
    this.#showMode();
    this.#showSettings(WIDE.matches && stored("localStorage", "nanogpt.settings-hidden") !== "yes");
    this.#showSurprise(stored("localStorage", "nanogpt.surprise") === "yes");
    this.refresh().then(() => WIDE.matches && this.prompt.focus({ preventScroll: true })); // elsewhere a keyboard would rise
  }

  get system() {
    return byId("scene").value;
  }

  get isWriting() {
    return this.panes.some((pane) => pane.writing);
  }

  get tokenDialog() {
    return byId("token");
  }

  // What panes tell

  announce(words) {
    byId("status").textContent = words;
  }

  /** A line at the foot for some seconds, with an action where one is offered. */
  notify(words, action = null, onclick = null) {
    const undo = action && element("button", { type: "button", class: "quiet", onclick: () => {
      byId("notice").replaceChildren();
      onclick();
    } }, action);
    byId("notice").replaceChildren(element("div", { class: "notice" }, element("p", {}, words), undo));
    clearTimeout(this.noticeEnds);
    this.noticeEnds = setTimeout(() => byId("notice").replaceChildren(), NOTICE);
  }

  changed() {
    const writing = this.isWriting;
    byId("send").hidden = writing;
    byId("stop").hidden = !writing;
    byId("new").disabled = this.panes.every((pane) => pane.tree.isEmpty);
    byId("play").hidden = this.mode !== "chat";
    this.prompt.placeholder = this.mode === "chat" ? `What does ${this.names.user} say?`
      : this.panes[0].tree.isEmpty ? "The first words of the text" : "Add words of your own, or let it go on";
    if (!writing) store("sessionStorage", KEPT, this.#file());
  }

  ended(pane, node) {
    const who = this.mode === "chat" ? this.names.assistant : "The text goes on";
    const model = this.panes.length > 1 ? `Model ${pane.place}, ` : "";
    this.announce(`${model}${who}: ${node.text.trim().slice(0, 1_000)}${node.finish === "stopped" ? " (stopped)" : ""}`);
    if (!pane.choice.model?.nanogpt?.backend) this.refresh(); // it is loaded now
  }

  failed(pane, node) {
    if (node.error.status === 401) this.#askForToken(() => pane.goOn(node));
    if (node.error.status === 404) this.refresh();
  }

  modelChosen() {
    store("localStorage", "nanogpt.models", JSON.stringify(this.panes.map((pane) => pane.model)));
  }

  /** Attention of the last token of an answer; with `index`, of the token before that one. */
  look(pane, node, index = null) {
    const text = index === null ? node.text : [...node.text].slice(0, node.tokens[index].offset).join("");
    const before = pane.promptOf(node);
    this.attention.open(node.model ?? pane.model, before + text, index === null ? null : node.tokens[index].text);
  }

  async copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      this.notify("Copied.");
    } catch {
      this.notify("The browser does not let the page copy. Select the text and copy it.");
    }
  }

  /** A text is begun with one of the examples. */
  begin(prompt) {
    this.prompt.value = prompt;
    this.#send();
  }

  // Doing

  async refresh() {
    try {
      this.models = await api.models();
    } catch (error) {
      if (error.status === 401) return this.#askForToken(() => this.refresh());
      this.notify(error.message, "Try again", () => this.refresh());
    }
    const kept = this.#keptModels();
    await Promise.all(this.panes.map((pane, place) => pane.showModels(this.models, pane.model ?? pane.wanted ?? kept[place])));
    this.#render();
  }

  async #send() {
    const text = this.prompt.value;
    const goesOn = this.mode === "text" && !this.panes[0].tree.isEmpty;
    if (this.isWriting || (!text.trim() && !goesOn)) return;
    if (!this.models.length) return this.notify("The server offers no model yet.", "Look again", () => this.refresh());
    this.prompt.value = "";
    this.#fitPrompt();
    await Promise.all(this.panes.map((pane) => pane.send(text)));
  }

  #stop() {
    this.panes.forEach((pane) => pane.stop());
  }

  #renew() {
    const before = this.#file();
    this.#stop();
    for (const pane of this.panes) pane.trees[this.mode] = new Tree();
    this.#render();
    this.prompt.focus();
    this.notify("A new one begins.", "Undo", () => this.#take(fromFile(before)));
  }

  #compare() {
    if (this.panes.length === 1) {
      const [first] = this.panes;
      const second = new Pane("B", this);
      second.trees = { chat: first.trees.chat.copy(), text: first.trees.text.copy() };
      this.panes.push(second);
      byId("panes").append(second.element);
      const kept = this.#keptModels()[1];
      const other = this.models.find((model) => model.id === kept && kept !== first.model) ?? this.models.find((model) => model.id !== first.model);
      second.showModels(this.models, other?.id ?? first.model);
    } else {
      const closed = this.panes.pop();
      closed.stop();
      closed.element.remove();
    }
    this.#render();
  }

  #showMode() {
    byId("mode-chat").checked = this.mode === "chat";
    byId("mode-text").checked = this.mode === "text";
    document.body.dataset.mode = this.mode;
    this.#render();
  }

  #render() {
    this.panes.forEach((pane) => pane.render());
    byId("panes").classList.toggle("two", this.panes.length === 2);
    byId("compare").setAttribute("aria-pressed", String(this.panes.length === 2));
    for (const who of ["user", "assistant"]) byId(`name-${who}`).value = this.names[who];
    this.changed();
  }

  #paneOf(node) {
    let top = node;
    while (top.parent) top = top.parent;
    return this.panes.find((pane) => Object.values(pane.trees).some((tree) => tree.root === top));
  }

  // Files

  #file() {
    return toFile(this);
  }

  #save() {
    const url = URL.createObjectURL(new Blob([this.#file()], { type: "application/json" }));
    const when = new Date().toISOString().slice(0, 16).replace(/[T:]/g, "-");
    element("a", { href: url, download: `conversation-${when}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  async #open(file) {
    if (!file) return;
    try {
      if (file.size > LARGEST_FILE) throw new Error(`is larger than ${LARGEST_FILE / 1024 / 1024} MB`);
      const content = fromFile(await file.text());
      const before = this.#file();
      this.#take(content);
      this.notify(`${file.name} is open.`, "Undo", () => this.#take(fromFile(before)));
    } catch (error) {
      this.notify(`${file.name}: ${error.message}`);
    }
  }

  #take({ mode, names, system, panes }) {
    this.#stop();
    Object.assign(this, { mode, names });
    byId("scene").value = system;
    while (this.panes.length > panes.length) this.#compare();
    while (this.panes.length < panes.length) this.#compare();
    panes.forEach(({ model, trees }, place) => {
      const pane = this.panes[place];
      Object.assign(pane, { trees, wanted: model, editing: null });
      pane.choice.choose(model);
    });
    this.#showMode();
  }

  /** What this tab held before it was loaded again. */
  #restore() {
    try {
      this.#take(fromFile(stored("sessionStorage", KEPT) ?? ""));
    } catch {
      // nothing was kept, or by another version of this page
    }
  }

  #keptModels() {
    try {
      const kept = JSON.parse(stored("localStorage", "nanogpt.models") ?? "[]");
      return Array.isArray(kept) ? kept : [];
    } catch {
      return [];
    }
  }

  // The access token

  #askForToken(then) {
    this.afterToken = [...(this.afterToken ?? []), then];
    if (!this.tokenDialog.open) this.tokenDialog.showModal();
  }

  #takeToken() {
    api.useToken(byId("token-field").value.trim());
    byId("token-field").value = "";
    this.tokenDialog.close();
    const waiting = this.afterToken ?? [];
    this.afterToken = [];
    waiting.forEach((then) => then());
  }

  // Looks

  #showScheme(scheme = stored("localStorage", "nanogpt.theme")) {
    const shown = SCHEMES.includes(scheme) ? scheme : "system";
    if (shown === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = shown;
    byId("scheme").dataset.scheme = shown;
    byId("scheme").setAttribute("aria-label", `Colours: ${shown}`);
    byId("scheme").title = `Colours: ${shown}`;
    return shown;
  }

  #turnScheme() {
    const next = SCHEMES[(SCHEMES.indexOf(byId("scheme").dataset.scheme) + 1) % SCHEMES.length];
    store("localStorage", "nanogpt.theme", next);
    this.#showScheme(next);
    this.announce(`Colours: ${next}`);
  }

  #showSurprise(on) {
    document.body.classList.toggle("surprise", on);
    byId("surprise").setAttribute("aria-pressed", String(on));
    byId("legend").hidden = !on;
    store("localStorage", "nanogpt.surprise", on ? "yes" : "no");
  }

  #showSettings(open) {
    document.body.classList.toggle("with-settings", open);
    byId("settings").hidden = !open;
    byId("settings-button").setAttribute("aria-expanded", String(open));
  }

  #turnSettings(open = byId("settings").hidden) {
    this.#showSettings(open);
    if (WIDE.matches) store("localStorage", "nanogpt.settings-hidden", open ? "no" : "yes");
    (open ? byId("settings-close") : byId("settings-button")).focus();
  }

  #fitPrompt() {
    this.prompt.rows = Math.min(8, Math.max(1, this.prompt.value.split("\n").length));
  }

  // Events

  #listen() {
    const click = (id, act) => byId(id).addEventListener("click", act);
    click("new", () => this.#renew());
    click("compare", () => this.#compare());
    click("surprise", () => this.#showSurprise(!document.body.classList.contains("surprise")));
    click("save", () => this.#save());
    click("open", () => byId("file").click());
    click("scheme", () => this.#turnScheme());
    click("keys-button", () => byId("keys").showModal());
    click("settings-button", () => this.#turnSettings());
    click("settings-close", () => this.#turnSettings(false));
    click("stop", () => {
      this.#stop();
      this.prompt.focus();
    });
    byId("file").addEventListener("change", async (event) => {
      await this.#open(event.target.files[0]);
      event.target.value = ""; // so that the same file can be chosen again
    });
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    byId("token-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#takeToken();
    });
    for (const mode of ["chat", "text"]) {
      byId(`mode-${mode}`).addEventListener("change", () => {
        this.#stop();
        this.mode = mode;
        this.#showMode();
      });
    }
    for (const who of ["user", "assistant"]) {
      byId(`name-${who}`).addEventListener("change", (event) => {
        const name = event.target.value.replace(/[\n:]/g, "").trim();
        if (name) this.names = { ...this.names, [who]: name };
        this.#render();
      });
    }
    for (const dialog of document.querySelectorAll("dialog")) {
      dialog.querySelector(".close")?.addEventListener("click", () => dialog.close());
      dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    }
    this.prompt.addEventListener("input", () => this.#fitPrompt());
    this.prompt.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    document.addEventListener("keydown", (event) => this.#key(event));
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      this.#open(event.dataTransfer.files[0]);
    });
  }

  #key(event) {
    if (event.key === "Escape") return this.#escape();
    if (!event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
    const act = this.#shortcuts[event.code];
    if (!act) return;
    event.preventDefault();
    act();
  }

  #escape() {
    if (document.querySelector("dialog[open]")) return; // it closes itself
    if (!popover.box.hidden) popover.hide();
    else if (this.isWriting) this.#stop();
    else if (!WIDE.matches && !byId("settings").hidden) this.#turnSettings(false);
  }

  #shortcuts = {
    KeyN: () => byId("new").click(),
    KeyI: () => this.prompt.focus(),
    KeyR: () => this.#withLastAnswers((pane, node) => pane.again(node)),
    KeyE: () => {
      const [pane] = this.panes;
      const mine = pane.tree.path().findLast((node) => node.role === "user");
      if (mine && !pane.writing) pane.edit(mine);
    },
    Comma: () => this.#turn(-1),
    Period: () => this.#turn(1),
    KeyA: () => {
      const [pane] = this.panes;
      if (pane.lastAnswer && !pane.writing) this.look(pane, pane.lastAnswer);
    },
    KeyC: () => byId("compare").click(),
    KeyP: () => byId("surprise").click(),
    KeyS: () => this.#save(),
    KeyO: () => byId("file").click(),
    KeyL: () => this.#turnScheme(),
    KeyM: () => byId(`mode-${this.mode === "chat" ? "text" : "chat"}`).click(),
    KeyG: () => this.#turnSettings(),
    Slash: () => byId("keys").showModal(),
  };

  #withLastAnswers(act) {
    for (const pane of this.panes) {
      const node = pane.lastAnswer;
      if (node && !pane.writing) act(pane, node);
    }
  }

  /** The version before or after of the last message that has several. */
  #turn(by) {
    for (const pane of this.panes) {
      const node = pane.tree.path().findLast((one) => one.parent.children.length > 1);
      if (node && !pane.writing) pane.turn(node, by);
    }
  }
}

new Page();
