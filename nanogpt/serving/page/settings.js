// How texts are written: sliders whose values are shown, kept in this browser.

import { byId, element, store, stored } from "./dom.js";

const KEY = "nanogpt.settings";
const SLIDERS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, value: 0.8, hint: "0 takes the likeliest token; higher is bolder" },
  { name: "top_p", label: "Top-p", min: 0.05, max: 1, step: 0.01, value: 1, off: 1, hint: "draws from the likeliest that reach this probability" },
  { name: "top_k", label: "Top-k", min: 0, max: 200, step: 1, value: 0, off: 0, hint: "draws from this many of the likeliest" },
  { name: "min_p", label: "Min-p", min: 0, max: 0.5, step: 0.01, value: 0, off: 0, hint: "drops what is less likely than this × the likeliest" },
  { name: "repetition_penalty", label: "Repetition penalty", min: 1, max: 2, step: 0.01, value: 1, off: 1, hint: "above 1: words that were used come less often" },
  { name: "max_tokens", label: "Longest answer", min: 10, max: 2000, step: 10, value: 300, unit: " tokens", hint: "the answer ends here at the latest" },
];

export class Settings {
  constructor() {
    this.fields = new Map();
    const kept = this.#kept();
    byId("sliders").append(...SLIDERS.map((slider) => this.#slider(slider, kept[slider.name])));
    this.seed = byId("seed");
    this.stops = byId("stops");
    this.seed.value = /^\d{1,15}$/.test(kept.seed ?? "") ? kept.seed : "";
    this.stops.value = typeof kept.stops === "string" ? kept.stops.slice(0, 1000) : "";
    for (const field of [this.seed, this.stops]) field.addEventListener("change", () => this.#keep());
    byId("reset").addEventListener("click", () => this.reset());
  }

  /** Fields of a request; those that are off are left out. Up to four stop strings: OpenAI's limit.
   *  `version`: of the same answer; with a seed each takes the next one, else they would all be the same. */
  request(extraStops, version) {
    const fields = {};
    for (const { name, off } of SLIDERS) {
      const value = this.fields.get(name).valueAsNumber;
      if (value !== off) fields[name] = value;
    }
    if (this.seed.value !== "") fields.seed = Number(this.seed.value) + version;
    const own = this.stops.value.split("\n").filter(Boolean).map((line) => line.replace(/\\n/g, "\n").replace(/\\t/g, "\t"));
    const stop = [...new Set([...extraStops, ...own])].slice(0, 4);
    if (stop.length) fields.stop = stop;
    return fields;
  }

  reset() {
    for (const { name, value } of SLIDERS) {
      this.fields.get(name).value = value;
      this.fields.get(name).dispatchEvent(new Event("input"));
    }
    this.seed.value = this.stops.value = "";
    this.#keep();
  }

  #slider({ name, label, min, max, step, value, off, unit = "", hint }, kept) {
    const id = `setting-${name}`;
    const input = element("input", { type: "range", id, name, min, max, step, value, "aria-describedby": `${id}-hint` });
    if (Number.isFinite(kept)) input.value = kept;
    const output = element("output", { for: id, id: `${id}-value` });
    const show = () => {
      const number = input.valueAsNumber;
      const text = number === off ? "off" : `${Number(number.toFixed(2))}${unit}`;
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
      input.style.setProperty("--filled", (number - min) / (max - min));
    };
    input.addEventListener("input", show);
    input.addEventListener("change", () => this.#keep());
    this.fields.set(name, input);
    show();
    return element("div", { class: "setting" },
      element("div", { class: "setting-head" }, element("label", { for: id }, label), output),
      input, element("p", { class: "hint", id: `${id}-hint` }, hint));
  }

  #kept() {
    try {
      return JSON.parse(stored("localStorage", KEY) ?? "{}") ?? {};
    } catch {
      return {};
    }
  }

  #keep() {
    const values = Object.fromEntries([...this.fields].map(([name, input]) => [name, input.valueAsNumber]));
    store("localStorage", KEY, JSON.stringify({ ...values, seed: this.seed.value, stops: this.stops.value }));
  }
}
