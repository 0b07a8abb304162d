// Asks the server how it is, again and again, and shows it.

import { byId, element, redraw, store, stored } from "./dom.js";
import { colourOf, dashOf, drawChart, drawn } from "./chart.js";

const LOOK = 1500; // ms between two looks, while something works
const LOOK_AFTER = 10_000; // once all has ended: it may be started again
const PATIENCE = 8_000; // ms for an answer
const MIB = 2 ** 20;
const ROUND_TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 28_800, 86_400]; // seconds
const SCHEMES = { light: "dark", dark: "system", system: "light" };
let latest = null;

async function look() {
  let pause = LOOK;
  try {
    const answer = await fetch("view", { signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    latest = await answer.json();
    byId("trouble").hidden = true;
    show(latest);
    if (latest.is_over) pause = LOOK_AFTER;
  } catch (error) {
    byId("trouble").hidden = false;
    byId("trouble").textContent = latest
      ? "nanogpt watch does not answer: what you see is its last answer. The training itself does not depend on it."
      : `nanogpt watch does not answer (${error.message}).`;
  }
  setTimeout(look, pause);
}

function show(view) {
  const words = headline(view);
  document.title = `${view.title}: ${words}`;
  byId("title").textContent = view.title;
  if (byId("state").textContent !== words) byId("state").textContent = words;
  showRun(view.run);
  redraw(byId("models"), view.models.map(modelOf));
  showCharts();
  showSamples(view.models);
  redraw(byId("happenings"), view.happenings.length ? view.happenings.toReversed().map(happeningOf) : [element("li", {}, element("p", { class: "soft" }, "nothing yet"))]);
}

function headline({ run, models, is_over }) {
  const begun = models.filter((model) => model.state !== "waiting");
  const model = begun.find((one) => one.state === "training" || one.state === "silent") ?? begun.at(-1);
  if (run) return [run.state, ...(run.eta_seconds !== null && run.state === "running" ? [`about ${time(run.eta_seconds)} left`] : [])].join(" · ");
  if (!model) return "nothing has begun yet";
  return [wordOf(model), ...(!is_over && model.eta_seconds !== null ? [`${time(model.eta_seconds)} left`] : [])].join(" · ");
}

function showRun(run) {
  byId("run").hidden = !run;
  if (!run) return;
  const known = run.spent_seconds !== null && run.budget_seconds !== null;
  const share = known ? Math.min(100, (100 * run.spent_seconds) / run.budget_seconds) : 0;
  byId("spent-bar").setAttribute("aria-valuenow", Math.round(share));
  byId("spent-bar").firstElementChild.style.width = `${share}%`;
  byId("spent").textContent = known ? `${time(run.spent_seconds)} of ${time(run.budget_seconds)} spent` : "";
  const marks = { done: "✓", running: "▶", failed: "✗", waiting: "·" };
  redraw(byId("phases"), run.phases.map((phase) => element("li", { class: phase.state, ...(phase.state === "running" ? { "aria-current": "step" } : {}) },
    element("b", {}, element("span", { "aria-hidden": "true" }, `${marks[phase.state]} `), phase.title, element("span", { class: "visually-hidden" }, ` ${phase.state}`)),
    element("span", { class: "soft" }, phaseTime(phase)))));
  const troubled = run.phases.filter((phase) => phase.trouble);
  byId("causes").hidden = !troubled.length;
  redraw(byId("causes"), troubled.map(({ number: place, title, trouble }) => element("li", {}, element("b", {}, `${place} ${title} `), trouble)));
}

function phaseTime({ state, seconds, planned_seconds: planned }) {
  if (state === "waiting") return planned ? `about ${time(planned)}` : "to come";
  return planned && state === "running" ? `${time(seconds)} of about ${time(planned)}` : time(seconds);
}

function wordOf(model) {
  if (model.state === "waiting") return model.note || "to come";
  if (model.state === "silent") return `no sign of life for ${time(model.silent_seconds)}`;
  if (model.state === "training") return model.note || "training";
  return model.note && model.note !== model.state ? `${model.state}: ${model.note}` : model.state;
}

function stepOf({ step, expected_steps: steps, is_estimate: isEstimate }) {
  if (!steps) return step ? `step ${count(step)}` : null;
  return `step ${count(step)} of ${isEstimate ? "about " : ""}${count(steps)}`;
}

function stepsShare({ step, expected_steps: steps }) {
  return steps ? Math.min(100, (100 * step) / steps) : 0;
}

function modelOf(model) {
  const share = model.state === "finished" ? 100 : stepsShare(model);
  const figures = [
    ["loss", number(model.loss, 3)],
    ["validation", number(model.val_loss, 4)],
    ["best validation", number(model.best_val_loss, 4)],
    ["bits per byte", number(model.bits_per_byte, 3)],
    ["tokens a second", model.tokens_per_second === null ? null : count(Math.round(model.tokens_per_second))],
    ["memory", model.memory_bytes ? `${count(Math.round(model.memory_bytes / MIB))} MiB` : null],
    ["trained", model.seconds ? time(model.seconds) : null],
    ["left", model.state === "training" && model.eta_seconds !== null ? time(model.eta_seconds) : null],
  ].filter(([, value]) => value !== null);
  const bar = element("div", { class: `bar ${model.state}`, role: "progressbar", "aria-label": `${model.name}: steps`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share) }, element("span"));
  bar.firstElementChild.style.width = `${share}%`;
  return element("article", { class: "model" },
    element("div", { class: "model-head" },
      element("h3", {}, model.name),
      element("span", { class: `word ${model.state}` }, wordOf(model)),
      element("span", { class: "soft" }, [model.parameters ? `${count(model.parameters)} parameters` : null, stepOf(model)].filter(Boolean).join(" · "))),
    model.state === "waiting" ? null : bar,
    figures.length ? element("dl", { class: "figures" }, ...figures.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)))) : null);
}

function showCharts() {
  if (!latest) return;
  const axis = document.querySelector("input[name=axis]:checked").value;
  const begun = latest.models.map((model, place) => ({ model, place })).filter(({ model }) => model.smooth.steps.length || model.validation.steps.length);
  const part = (series) => (series[axis].length === series.values.length ? { xs: series[axis], ys: series.values } : { xs: [], ys: [] });
  const x = axis === "steps" ? { label: "step", show: count } : { label: "time", show: time, sizes: ROUND_TIMES };
  const lines = (pick) => begun.map(({ model, place }) => ({ name: model.name, place, ...pick(model) }));
  const decimals = (value, reach) => number(value, reach > 1 || reach === 0 ? (reach === 0 ? 4 : 1) : reach > 0.2 ? 2 : 3);
  const whole = (value) => count(Math.round(value));
  const last = begun.map(({ model }) => `${model.name}: training ${number(model.loss, 3) ?? "–"}, validation ${number(model.val_loss, 4) ?? "–"}`).join("; ");
  redraw(byId("legend"), begun.map(({ model, place }) => {
    const line = drawn("line", { x1: 1, x2: 34, y1: 6, y2: 6, "stroke-width": 2.5, "stroke-dasharray": dashOf(place) });
    line.style.stroke = colourOf(place);
    const point = drawn("circle", { cx: 18, cy: 6, r: 4.5 });
    point.style.fill = colourOf(place);
    return element("li", {}, drawn("svg", { viewBox: "0 0 36 12", "aria-hidden": "true" }, line, point), model.name);
  }));
  drawChart(byId("loss"), { lines: lines((model) => ({ raw: part(model.train), curve: part(model.smooth), points: part(model.validation) })), x, y: { show: decimals }, height: 320, words: `Loss. ${last}` });
  drawChart(byId("speed"), { lines: lines((model) => ({ curve: part(model.speed) })), x, y: { show: whole }, height: 190, fromZero: true, words: "Tokens a second" });
  drawChart(byId("memory"), { lines: lines((model) => ({ curve: { ...part(model.memory), ys: part(model.memory).ys.map((bytes) => bytes / MIB) } })), x, y: { show: whole }, height: 190, fromZero: true, words: "Memory in MiB" });
}

function showSamples(models) {
  const signature = JSON.stringify(models.map((model) => [model.name, model.samples.length, model.samples.at(-1)?.step]));
  if (byId("samples").dataset.signature === signature) return; // what was opened stays open
  byId("samples").dataset.signature = signature;
  const written = models.filter((model) => model.samples.length).toReversed();
  byId("samples").replaceChildren(...(written.length ? written.map(samplesOf) : [element("p", { class: "soft" }, "nothing yet: a model writes a few times in its training")]));
}

function samplesOf(model) {
  const [newest, ...older] = model.samples.toReversed();
  return element("div", {}, sampleOf(model, newest),
    older.length ? element("details", {}, element("summary", {}, `${older.length} more of ${model.name}`), ...older.map((one) => sampleOf(model, one))) : null);
}

const sampleOf = (model, sample) => element("div", { class: "sample" },
  element("h3", {}, `${model.name}, step ${count(sample.step)}`, element("span", { class: "soft" }, ` temperature ${sample.temperature}`)),
  element("pre", {}, sample.text));

function happeningOf({ time: when, where, what, is_trouble: trouble }) {
  const moment = new Date(when * 1000);
  return element("li", { class: trouble ? "is-trouble" : "" },
    element("time", { datetime: when ? moment.toISOString() : "" }, when ? moment.toLocaleTimeString([], { hour12: false }) : "–"),
    element("p", {}, element("span", { class: "where" }, where), what));
}

const number = (value, digits) => (value === null || value === undefined ? null : value.toFixed(digits));
const count = (value) => Math.round(value).toLocaleString("en-US");

/** 84 -> "1:24", 5400 -> "1:30:00". */
function time(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  const two = (value) => String(value).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

function setScheme(scheme) {
  if (scheme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = scheme;
  byId("scheme").textContent = `Colours: ${scheme}`;
}

let scheme = ["light", "dark"].find((one) => one === stored("localStorage", "nanogpt.theme")) ?? "system";
setScheme(scheme);
byId("scheme").addEventListener("click", () => {
  scheme = SCHEMES[scheme];
  store("localStorage", "nanogpt.theme", scheme);
  setScheme(scheme);
});
for (const choice of document.querySelectorAll("input[name=axis]")) choice.addEventListener("change", showCharts);
new ResizeObserver(showCharts).observe(byId("loss"));
look();
