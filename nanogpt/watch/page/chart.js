// A line chart as SVG. Curves differ by colour and by dash, so that they can be told apart in grey as well.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { top: 10, right: 12, bottom: 26, left: 54 };
const DASHES = ["", "7 4", "2 3", "9 3 2 3", "12 4"];
const LINES = 5;

export const colourOf = (place) => `var(--line-${(place % LINES) + 1})`;
export const dashOf = (place) => DASHES[place % DASHES.length];

export function drawn(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Round numbers from `low` to `high`, at most about `wanted` of them. `sizes`: the steps to choose from. */
function ticks(low, high, wanted, sizes = null) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = (sizes ?? [1, 2, 2.5, 5, 10].map((times) => times * power)).find((size) => size >= rough) ?? rough;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

/**
 * Draw into `figure`. lines: {name, place, raw, curve, points}, each of the last three {xs, ys} or null.
 * x and y: {label, show(value), sizes: of the steps between its labels, where they are no powers of ten}; fromZero: the y axis begins at 0.
 */
export function drawChart(figure, { lines, x, y, height, fromZero = false, words }) {
  const shown = lines.filter((line) => [line.curve, line.points].some((part) => part && part.xs.length > 1 || part?.ys.length));
  const signature = JSON.stringify([figure.clientWidth, height, x.label, lines]);
  if (figure.dataset.signature === signature) return; // nothing new: the reading under the pointer stays
  figure.dataset.signature = signature;
  if (!shown.length) {
    const empty = document.createElement("p");
    empty.className = "empty";
    empty.textContent = "nothing measured yet";
    figure.replaceChildren(empty);
    return;
  }
  const width = Math.max(260, figure.clientWidth);
  const all = shown.flatMap((line) => [line.curve, line.points].filter(Boolean));
  const xs = all.flatMap((part) => part.xs);
  // Cut the first steep fall off the top, so that the later, slow gains can be seen.
  const ys = all.flatMap((part) => (fromZero || part.ys.length < 60 ? part.ys : part.ys.slice(Math.floor(part.ys.length / 33))));
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  let [low, high] = [fromZero ? 0 : Math.min(...ys), Math.max(...ys)];
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  high += room;
  if (!fromZero) low -= room;
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const across = (value) => MARGIN.left + ((value - left) / (right - left || 1)) * inner.width;
  const down = (value) => MARGIN.top + ((high - value) / (high - low)) * inner.height;

  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": words });
  const window = `${figure.id}-window`; // what lies above it is cut off
  svg.append(drawn("clipPath", { id: window }, drawn("rect", { x: MARGIN.left - 6, y: 0, width: inner.width + 12, height: height - MARGIN.bottom + 6 })));
  const curves = drawn("g", { "clip-path": `url(#${window})` });
  for (const value of ticks(low, high, height > 200 ? 8 : 4)) {
    svg.append(drawn("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: down(value), y2: down(value) }));
    svg.append(drawn("text", { x: MARGIN.left - 8, y: down(value) + 4, "text-anchor": "end" }, y.show(value, high - low)));
  }
  for (const value of ticks(left, right, Math.max(2, Math.floor(width / 70)), x.sizes)) {
    if (across(value) > width - 60) continue; // the axis' own label stands there
    svg.append(drawn("text", { x: across(value), y: height - 8, "text-anchor": "middle" }, x.show(value)));
  }
  svg.append(drawn("text", { x: width - MARGIN.right, y: height - 8, "text-anchor": "end" }, x.label));
  const path = (part) => part.xs.map((value, place) => `${place ? "L" : "M"}${across(value).toFixed(1)} ${down(part.ys[place]).toFixed(1)}`).join("");
  for (const line of shown) {
    const stroke = `stroke: ${colourOf(line.place)}`;
    if (line.raw?.xs.length) curves.append(styled(drawn("path", { class: "raw", d: path(line.raw) }), stroke));
    if (line.curve?.xs.length) curves.append(styled(drawn("path", { class: "curve", d: path(line.curve), "stroke-dasharray": dashOf(line.place) }), stroke));
    if (line.curve?.xs.length === 1) curves.append(styled(drawn("circle", { r: 2.5, cx: across(line.curve.xs[0]), cy: down(line.curve.ys[0]) }), `fill: ${colourOf(line.place)}`));
    for (const [place, value] of (line.points?.xs ?? []).entries())
      curves.append(styled(drawn("circle", { class: "point", r: 4.5, cx: across(value), cy: down(line.points.ys[place]) }), `fill: ${colourOf(line.place)}`));
  }
  svg.append(curves);
  const cross = drawn("line", { class: "cross", y1: MARGIN.top, y2: height - MARGIN.bottom, visibility: "hidden" });
  svg.append(cross);
  const reading = document.createElement("div");
  reading.className = "reading";
  reading.hidden = true;
  figure.replaceChildren(svg, reading);

  const hide = () => {
    reading.hidden = true;
    cross.setAttribute("visibility", "hidden");
  };
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = left + ((((event.clientX - box.left) / box.width) * width - MARGIN.left) / inner.width) * (right - left);
    if (at < left - (right - left) * 0.02 || at > right + (right - left) * 0.02) return hide();
    const rows = shown.flatMap((line) => [nearest(line, "curve", at), nearest(line, "points", at)]).filter(Boolean);
    reading.replaceChildren(...[`${x.label} ${x.show(Math.max(left, Math.min(right, at)))}`, ...rows.map(([name, value]) => `${name}  ${y.show(value, 0)}`)].map((text) => {
      const row = document.createElement("div");
      row.textContent = text;
      return row;
    }));
    reading.hidden = false;
    const place = (across(at) / width) * box.width;
    reading.style.left = `${Math.min(Math.max(0, place + 12), Math.max(0, box.width - reading.offsetWidth))}px`;
    if (place > box.width / 2) reading.style.left = `${Math.max(0, place - 12 - reading.offsetWidth)}px`;
    cross.setAttribute("x1", across(at));
    cross.setAttribute("x2", across(at));
    cross.setAttribute("visibility", "visible");
  });
}

function styled(node, style) {
  const [property, value] = style.split(": ");
  node.style.setProperty(property, value);
  return node;
}

/** [name, value] of the point of a line's part that is nearest to `at`; null beyond its ends. */
function nearest(line, part, at) {
  const { xs, ys } = line[part] ?? { xs: [], ys: [] };
  if (!xs.length || (part === "curve" && (at < xs[0] || at > xs.at(-1)))) return null;
  let best = 0;
  for (let place = 1; place < xs.length; place += 1) if (Math.abs(xs[place] - at) < Math.abs(xs[best] - at)) best = place;
  return [part === "points" ? `${line.name} validation` : line.name, ys[best]];
}
