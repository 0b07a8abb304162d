// Where the last token of a text looks: a heat strip over the text, for one head, one layer, or the mean of all.

import { attention } from "./api.js";
import { byId, element, spoken, visible } from "./dom.js";

const MEAN = "mean";
const LISTED = 5; // tokens that are named below the strip

/** A dialog that asks the server for the attention of a text's last token and shows it. */
export class AttentionView {
  constructor() {
    this.dialog = byId("attention");
    this.layer = byId("attention-layer");
    this.head = byId("attention-head");
    this.map = byId("attention-map");
    this.answer = null;
    this.asking = null;
    for (const select of [this.layer, this.head]) select.addEventListener("change", () => this.#draw());
    this.map.addEventListener("click", (event) => this.#pick(event));
    this.dialog.addEventListener("close", () => this.asking?.abort());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.dialog.open && this.#draw());
  }

  /** `next`: the token that came after the text, where one did. */
  async open(model, text, next = null) {
    this.asking?.abort();
    this.asking = new AbortController();
    this.answer = null;
    this.#say("Reading the model's attention…");
    byId("attention-result").hidden = true;
    this.dialog.showModal();
    try {
      this.answer = checked(await attention(model, text, this.asking.signal));
    } catch (error) {
      if (error.name !== "AbortError") this.#say(error.message, true);
      return;
    }
    const last = this.answer.tokens.at(-1);
    this.#say(next === null
      ? `The last token, ${quoted(last)}, decides what comes next. This is what it looks at, itself included.`
      : `Before it wrote ${quoted(next)}, the model had read up to ${quoted(last)}. This is what that token looked at.`);
    const { layers } = this.answer;
    options(this.layer, layers.length, "Mean of all layers", "Layer");
    options(this.head, layers[0].length, "Mean of all heads", "Head");
    byId("attention-result").hidden = false;
    this.#draw();
    byId("attention-strip").scrollTop = byId("attention-strip").scrollHeight; // where the last token is
  }

  #say(words, wrong = false) {
    const line = byId("attention-words");
    line.textContent = words;
    line.classList.toggle("wrong", wrong);
  }

  /** The weights (T,) of what is chosen. */
  #weights() {
    const { layers, tokens } = this.answer;
    const chosen = (this.layer.value === MEAN ? layers : [layers[Number(this.layer.value)]]).flatMap((heads) =>
      this.head.value === MEAN ? heads : [heads[Number(this.head.value)]]);
    return tokens.map((_, place) => chosen.reduce((sum, head) => sum + head[place], 0) / chosen.length);
  }

  #draw() {
    if (!this.answer) return;
    const weights = this.#weights();
    const most = Math.max(...weights, 1e-9);
    byId("attention-strip").replaceChildren(...this.answer.tokens.map((token, place) => {
      const span = element("span", { class: "heat", title: `${visible(token)}  ${(100 * weights[place]).toFixed(1)} %` }, token);
      span.style.setProperty("--heat", (weights[place] / most) ** 0.7); // so that the second and third are seen, too
      return span;
    }));
    const places = weights.map((_, place) => place).sort((one, other) => weights[other] - weights[one]).slice(0, LISTED);
    byId("attention-most").replaceChildren(...places.map((place) => {
      const back = weights.length - 1 - place;
      const where = back === 0 ? "itself" : back === 1 ? "1 token back" : `${back} tokens back`;
      const bar = element("span", { class: "bar" });
      bar.style.setProperty("--share", weights[place] / most);
      return element("li", { class: "alternative" },
        element("code", { "aria-label": spoken(this.answer.tokens[place]), role: "img" }, visible(this.answer.tokens[place])), bar,
        element("span", { class: "figure" }, `${(100 * weights[place]).toFixed(1)} %`), element("span", { class: "muted" }, where));
    }));
    this.#drawMap();
  }

  /** All heads at once: a row for each layer, in it a strip for each head, its tokens from left to right. */
  #drawMap() {
    const { layers, tokens } = this.answer;
    const heads = layers[0].length;
    const scale = devicePixelRatio || 1;
    const width = this.map.clientWidth || 300;
    const cell = width / heads;
    const row = Math.max(10, Math.min(26, 200 / layers.length));
    this.map.style.setProperty("height", `${row * layers.length}px`);
    this.map.width = Math.round(width * scale);
    this.map.height = Math.round(row * layers.length * scale);
    const context = this.map.getContext("2d");
    context.scale(scale, scale);
    const style = getComputedStyle(this.map);
    layers.forEach((layer, line) => layer.forEach((head, column) => {
      const most = Math.max(...head, 1e-9);
      const step = (cell - 4) / tokens.length;
      const chosen = [this.layer.value, this.head.value];
      const on = (chosen[0] === MEAN || Number(chosen[0]) === line) && (chosen[1] === MEAN || Number(chosen[1]) === column);
      context.globalAlpha = 1;
      context.fillStyle = style.borderTopColor;
      context.fillRect(column * cell + 2, line * row + 1, cell - 4, row - 2);
      context.fillStyle = style.color;
      head.forEach((weight, place) => {
        context.globalAlpha = (weight / most) * (on ? 1 : 0.35);
        context.fillRect(column * cell + 2 + place * step, line * row + 1, Math.max(step, 0.75), row - 2);
      });
    }));
  }

  #pick(event) {
    const { layers } = this.answer;
    const box = this.map.getBoundingClientRect();
    const layer = String(Math.min(layers.length - 1, Math.floor((event.clientY - box.top) / box.height * layers.length)));
    const head = String(Math.min(layers[0].length - 1, Math.floor((event.clientX - box.left) / box.width * layers[0].length)));
    const again = this.layer.value === layer && this.head.value === head;
    this.layer.value = again ? MEAN : layer;
    this.head.value = again ? MEAN : head;
    this.#draw();
  }
}

function options(select, count, mean, one) {
  select.replaceChildren(element("option", { value: MEAN }, mean),
    ...Array.from({ length: count }, (_, index) => element("option", { value: index }, `${one} ${index + 1}`)));
}

const quoted = (token) => `“${visible(token)}”`;

function checked(answer) {
  const fits = Array.isArray(answer.tokens) && Array.isArray(answer.layers) && answer.layers.length &&
    answer.layers.every((layer) => layer.length && layer.every((head) => head.length === answer.tokens.length));
  if (!fits) throw new Error("The server's answer holds no attention.");
  return answer;
}
