// Which model speaks: run, model, and its best, final or an earlier step; a slider goes through the steps of a training.

import { element } from "./dom.js";

const ORDER = { export: 0, best: 1, final: 2, step: 3 };

/** [label, models] of each run and model: what is recommended first, then the steps in order. */
function grouped(models) {
  const groups = new Map();
  for (const model of models) {
    const { run, model: name } = about(model);
    const label = [run && `Run ${run}`, name].filter(Boolean).join(": ") || "Models";
    if (!groups.has(label)) groups.set(label, []);
    groups.get(label).push(model);
  }
  const place = (model) => [ORDER[about(model).kind] ?? 9, about(model).step ?? 0];
  for (const group of groups.values()) {
    group.sort((one, other) => place(one)[0] - place(other)[0] || place(one)[1] - place(other)[1]);
  }
  return [...groups];
}

/** "best (step 1,000)", "step 100", "before cooldown (step 900)". */
function nameOf(model) {
  const { kind, step } = about(model);
  const folder = model.id.split("@").at(-1);
  const at = Number.isFinite(step) && step > 0 ? `step ${count(step)}` : "";
  if (kind === "step" && /^step-\d+$/.test(folder)) return at || "step 0";
  const name = ["export", "best", "final"].includes(kind) ? kind : folder.replaceAll("-", " ");
  return at ? `${name} (${at})` : name;
}

/** The same with its model: "tiny · step 100". */
export function shortName(model) {
  return [about(model).model, nameOf(model)].filter(Boolean).join(" · ");
}

/** "4.8 M parameters · reads 256 tokens back · onnxruntime". */
function facts(model) {
  const { parameters, block_size: context, backend, loaded } = about(model);
  return [
    parameters ? `${short(parameters)} parameters` : null,
    context ? `looks back ${count(context)} tokens` : null,
    loaded === false ? "loads at the first text" : backend || null,
  ].filter(Boolean).join(" · ");
}

const about = (model) => model.nanogpt ?? {};
const count = (number) => number.toLocaleString("en");

/** As the terminal and the report write it: "0.80 M", "124.0 M". */
function short(number) {
  for (const [size, unit, least] of [[1e9, "B", 1e9], [1e6, "M", 1e5]]) {
    if (number >= least) return `${(number / size).toFixed(number < 10 * size ? 2 : 1)} ${unit}`;
  }
  return count(number);
}

/** The choice of one pane. `onchange` is called with the model's name. */
export class ModelChoice {
  constructor(place, onchange) {
    const id = `model-${place}`;
    this.models = [];
    this.onchange = onchange;
    this.select = element("select", { id, onchange: () => this.choose(this.select.value) });
    this.slider = element("input", { type: "range", id: `${id}-step`, min: 0, step: 1, "aria-label": "Training step",
      oninput: () => this.choose(this.steps[this.slider.valueAsNumber].id) });
    this.stepName = element("output", { for: `${id}-step` });
    this.stepRow = element("div", { class: "steps", hidden: true }, element("span", { "aria-hidden": "true" }, "Training"), this.slider, this.stepName);
    this.facts = element("p", { class: "facts" });
    this.element = element("div", { class: "model" },
      element("div", { class: "model-row" },
        element("label", { for: id, class: "visually-hidden" }, "Model"), this.select, this.facts),
      this.stepRow);
  }

  get value() {
    return this.select.value || null;
  }

  get model() {
    return this.models.find((model) => model.id === this.value);
  }

  show(models, chosen) {
    this.models = models;
    const groups = grouped(models).map(([label, group]) =>
      element("optgroup", { label }, ...group.map((model) => element("option", { value: model.id }, shortName(model)))));
    if (!groups.length) groups.push(element("option", { value: "" }, "no model"));
    this.select.replaceChildren(...groups);
    if (models.some((model) => model.id === chosen)) this.select.value = chosen;
    this.#follow();
  }

  choose(id) {
    if (!this.models.some((model) => model.id === id)) return;
    this.select.value = id;
    this.#follow();
    this.onchange(id);
  }

  /** Slider and facts of the chosen model. */
  #follow() {
    const group = grouped(this.models).find(([, models]) => models.some((model) => model.id === this.value))?.[1] ?? [];
    const trained = group.filter((model) => ["step", "final"].includes(about(model).kind));
    this.steps = trained.sort((one, other) => (about(one).step ?? Infinity) - (about(other).step ?? Infinity));
    const at = this.steps.findIndex((model) => model.id === this.value);
    this.stepRow.hidden = this.steps.length < 2;
    this.stepRow.classList.toggle("elsewhere", at < 0);
    this.slider.max = Math.max(0, this.steps.length - 1);
    this.slider.value = at < 0 ? this.steps.length - 1 : at;
    this.slider.style.setProperty("--filled", this.slider.valueAsNumber / Math.max(1, this.steps.length - 1));
    const name = this.model ? nameOf(this.model) : "";
    this.stepName.textContent = name;
    this.slider.setAttribute("aria-valuetext", name);
    this.facts.textContent = this.facts.title = this.model ? facts(this.model) : "";
  }
}
