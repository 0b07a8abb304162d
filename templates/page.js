"use strict";
// The report without this script is whole: it adds sorting, copy buttons and curves to zoom into.
(() => {
  const make = (tag, attributes = {}, ...children) => {
    const isSvg = ["svg", "g", "path", "line", "rect", "circle", "text"].includes(tag);
    const element = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  // ---- commands that can be copied

  const copied = async (text, button) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {  // a page from the disk may not reach the clipboard
      const area = make("textarea", { readonly: "", class: "off-screen" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };

  const addCopyButton = (code, place) => {
    const button = make("button", { type: "button", class: "copy", "aria-label": "Copy this command" }, "Copy");
    button.addEventListener("click", () => copied(code.textContent.trim(), button));
    place.after(button);
  };

  const isCommand = /^(\S*python3? (-m )?\S|\S*nanogpt [a-z]|ollama |llama-|pip )/;
  for (const code of document.querySelectorAll("main code")) {
    const block = code.closest("pre");
    if (block && /language-(sh|yaml|python)/.test(code.className)) {
      const wrapper = make("div", { class: "with-copy" });
      block.replaceWith(wrapper);
      wrapper.append(block);
      addCopyButton(code, block);
    } else if (!block && isCommand.test(code.textContent)) {
      addCopyButton(code, code);
    }
  }

  // ---- tables that can be sorted

  const UNITS = { ms: 1e-3, s: 1, min: 60, h: 3600, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30,
                  k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, "%": 1 };

  const valueOf = (text, bytes) => {  // "6 min 09 s" -> 369; what is no figure stays text
    const plain = text.replace(/,(?=\d{3})/g, "").replace(/−/g, "-").trim();
    const parts = [...plain.matchAll(/(-?\+?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*([A-Za-z%]*)/g)];
    if (!parts.length || !/^[-+]?\d/.test(plain)) return null;
    const first = Number(parts[0][1]);
    const unit = (word) => word === "B" ? (bytes ? 1 : 1e9) : UNITS[word] ?? UNITS[word[0] === "F" ? "" : word[0]] ?? 1;
    const isTime = /^(ms|s|min|h)$/;
    if (!isTime.test(parts[0][2])) return first * unit(parts[0][2]);
    return parts.filter((part) => isTime.test(part[2])).reduce((sum, part) => sum + part[1] * UNITS[part[2]], 0);
  };

  const sortBy = (table, column, header) => {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const texts = rows.map((row) => row.cells[column]?.textContent.trim() ?? "");
    const bytes = texts.some((text) => /[KMG]iB/.test(text));
    const values = texts.map((text) => valueOf(text, bytes));
    const isNumeric = values.filter((value) => value !== null).length * 2 > texts.filter((text) => text !== "–").length;
    const down = header.getAttribute("aria-sort") === "ascending";
    const order = rows.map((row, i) => ({ row, i, key: isNumeric ? values[i] : texts[i] }));
    order.sort((a, b) => {
      if (isNumeric && (a.key === null || b.key === null)) return (a.key === null) - (b.key === null) || a.i - b.i;
      const less = isNumeric ? a.key - b.key : a.key.localeCompare(b.key);
      return (down ? -less : less) || a.i - b.i;
    });
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", down ? "descending" : "ascending");
    body.append(...order.map((entry) => entry.row));
  };

  for (const table of document.querySelectorAll("main table")) {
    if (!table.tBodies[0] || table.tBodies[0].rows.length < 4) continue;
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      if (!header.textContent.trim()) return;
      const button = make("button", { type: "button", class: "sort", title: "Sort by this column" });
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sortBy(table, column, header));
    });
  }

  // ---- parts that fold: what is linked to, and what is printed, is open

  const openTarget = () => document.getElementById(decodeURIComponent(location.hash.slice(1)))?.closest("details")
    ?.setAttribute("open", "");
  addEventListener("hashchange", openTarget);
  openTarget();
  const folded = [];
  addEventListener("beforeprint", () => {
    folded.splice(0, Infinity, ...document.querySelectorAll("main details:not([open])"));
    folded.forEach((part) => part.setAttribute("open", ""));
  });
  addEventListener("afterprint", () => folded.forEach((part) => part.removeAttribute("open")));
  const foldAll = document.querySelector(".fold-all");
  if (foldAll) {
    foldAll.hidden = false;
    foldAll.addEventListener("click", () => {
      const parts = [...document.querySelectorAll("main details.part")];
      const open = parts.some((part) => !part.open);
      parts.forEach((part) => part.toggleAttribute("open", open));
      foldAll.textContent = open ? "Fold all parts" : "Open all parts";
    });
  }

  // ---- curves

  const source = document.getElementById("curves");
  const charts = source ? JSON.parse(source.textContent) : {};
  const DASHES = ["", "7 4", "9 3 2 3", "2 3", "12 3 2 3 2 3", "4 2"];
  const PADDING = { left: 62, right: 14, top: 10, bottom: 42 };
  const DOT = 4;  // the largest radius

  const ticksOf = (low, high, many, isLog) => {
    if (isLog && high / low > 20) {
      const found = [];
      for (let power = Math.ceil(Math.log10(low)); power <= Math.log10(high); power++) found.push(10 ** power);
      if (found.length > 1) return found;
    }
    const rough = (high - low) / many || 1;
    const size = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((factor) => factor * size >= rough) * size;
    const found = [];
    for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) found.push(tick);
    return found;
  };

  const words = (value) => {
    const size = Math.abs(value);
    for (const [factor, unit] of [[1e18, "E"], [1e15, "P"], [1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
      if (size >= factor * 0.9999) return `${Number((value / factor).toPrecision(4))} ${unit}`;
    }
    return String(Number(value.toPrecision(4)));
  };

  class Chart {
    constructor(figure, data) {
      this.figure = figure;
      this.data = data;
      this.x = data.xs[0];
      this.y = data.ys[0];
      this.hidden = new Set();
      this.range = null;
      this.isLog = false;
      this.box = make("div", { class: "explore", hidden: "" });
      this.plot = make("svg", { tabindex: "0", role: "img", "aria-label": `${data.title}; arrow keys move, plus and minus zoom, 0 shows all` });
      this.readout = make("div", { class: "readout", "aria-live": "polite" });
      this.box.append(this.controls(), this.legend(), this.plot, this.readout);
      this.button = make("button", { type: "button", class: "toggle" }, "Zoom into the curves");
      this.button.addEventListener("click", () => this.toggle());
      figure.append(this.button, this.box);
      this.listen();
      new ResizeObserver(() => this.box.hidden || this.draw()).observe(this.box);
    }

    toggle() {
      this.box.hidden = !this.box.hidden;
      this.button.textContent = this.box.hidden ? "Zoom into the curves" : "Close the curves";
      if (!this.box.hidden) this.draw();
    }

    choice(name, options, change) {
      const select = make("select", { "aria-label": name });
      for (const option of options) select.append(make("option", {}, option.label));
      select.addEventListener("change", () => { change(options[select.selectedIndex]); this.draw(); });
      return make("label", {}, `${name} `, select);
    }

    controls() {
      const bar = make("div", { class: "controls" });
      if (this.data.ys.length > 1) bar.append(this.choice("Show", this.data.ys, (y) => { this.y = y; }));
      bar.append(this.choice("over", this.data.xs, (x) => { this.x = x; this.range = null; }));
      const log = make("input", { type: "checkbox" });
      log.addEventListener("change", () => { this.isLog = log.checked; this.range = null; this.draw(); });
      const all = make("button", { type: "button" }, "Show all");
      all.addEventListener("click", () => { this.range = null; this.draw(); });
      bar.append(make("label", {}, log, " logarithmic"), all, make("span", { class: "hint" }, "Drag across the curves to zoom in."));
      return bar;
    }

    legend() {
      const bar = make("div", { class: "legend" });
      this.data.series.forEach((series, i) => {
        const sign = make("svg", { width: 30, height: 10, "aria-hidden": "true" },
          make("path", { d: "M1 5H29", class: `line line-${i % 6}`, "stroke-dasharray": DASHES[i % 6] }));
        const button = make("button", { type: "button", "aria-pressed": "true" }, sign, ` ${series.name}`);
        button.addEventListener("click", () => {
          this.hidden.has(i) ? this.hidden.delete(i) : this.hidden.add(i);
          button.setAttribute("aria-pressed", String(!this.hidden.has(i)));
          this.draw();
        });
        bar.append(button);
      });
      return bar;
    }

    points(series) {
      const xs = series.columns[this.x.key], ys = series.columns[this.y.key];
      if (!xs || !ys) return [];
      const found = xs.map((x, i) => [x, ys[i]]).filter(([x, y]) => x !== null && y !== null);
      return this.isLog ? found.filter(([x]) => x > 0) : found;
    }

    lines() {
      return this.data.series.map((series, i) => ({ name: series.name, i, points: this.hidden.has(i) ? [] : this.points(series) }));
    }

    extent() {
      const xs = this.lines().flatMap((line) => line.points.map(([x]) => x));
      return xs.length ? [Math.min(...xs), Math.max(...xs)] : [0, 1];
    }

    draw() {
      const width = Math.max(260, this.plot.clientWidth), height = Math.round(Math.min(380, Math.max(240, 0.5 * width)));
      this.width = width;
      this.height = height;
      this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
      this.plot.style.height = `${height}px`;
      const whole = this.extent();
      const [low, high] = this.range ?? whole;
      const lines = this.lines();
      // the first steep fall hides the later, slow gains: of a long curve, it is cut off the top at first
      const isLong = !this.range && !this.isLog && lines.some((line) => line.points.length > 60);
      const from = isLong ? low + 0.03 * (high - low) : low;
      let ys = lines.flatMap((line) => line.points.filter(([x]) => x >= from && x <= high).map(([, y]) => y));
      if (!ys.length) ys = lines.flatMap((line) => line.points.map(([, y]) => y));
      let bottom = Math.min(...ys), top = Math.max(...ys);
      if (!Number.isFinite(bottom)) [bottom, top] = [0, 1];
      const room = 0.06 * (top - bottom || Math.abs(top) || 1);
      [bottom, top] = [bottom - room, top + room];
      const at = (value) => this.isLog ? Math.log(value) : value;
      const toX = (x) => PADDING.left + (at(x) - at(low)) / (at(high) - at(low) || 1) * (width - PADDING.left - PADDING.right);
      const toY = (y) => height - PADDING.bottom - (y - bottom) / (top - bottom) * (height - PADDING.top - PADDING.bottom);
      this.toX = toX;
      this.toY = toY;
      this.fromX = (pixel) => {
        const share = (pixel - PADDING.left) / (width - PADDING.left - PADDING.right);
        const value = at(low) + Math.min(1, Math.max(0, share)) * (at(high) - at(low));
        return this.isLog ? Math.exp(value) : value;
      };
      const scene = [];
      for (const tick of ticksOf(bottom, top, 5, false)) {
        scene.push(make("line", { class: "grid", x1: PADDING.left, x2: width - PADDING.right, y1: toY(tick), y2: toY(tick) }),
          make("text", { class: "tick", x: PADDING.left - 7, y: toY(tick) + 4, "text-anchor": "end" }, words(tick)));
      }
      for (const tick of ticksOf(low, high, width < 480 ? 4 : 7, this.isLog)) {
        scene.push(make("line", { class: "grid", x1: toX(tick), x2: toX(tick), y1: PADDING.top, y2: height - PADDING.bottom }),
          make("text", { class: "tick", x: toX(tick), y: height - PADDING.bottom + 17, "text-anchor": "middle" }, words(tick)));
      }
      scene.push(make("text", { class: "axis", x: (PADDING.left + width) / 2, y: height - 6, "text-anchor": "middle" }, this.x.label),
        make("text", { class: "axis", transform: `translate(13 ${(height - PADDING.bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, this.y.label));
      // what lies outside of it is cut off; the first and the last dot stand on its edge
      const edge = { x: PADDING.left - DOT, y: PADDING.top, width: width - PADDING.left - PADDING.right + 2 * DOT, height: height - PADDING.top - PADDING.bottom + DOT };
      const inner = make("svg", { ...edge, viewBox: `${edge.x} ${edge.y} ${edge.width} ${edge.height}` });
      for (const line of lines) {
        if (!line.points.length) continue;
        const path = line.points.map(([x, y], i) => `${i ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
        inner.append(make("path", { d: path, class: `line line-${line.i % 6}`, "stroke-dasharray": DASHES[line.i % 6] }));
        if (line.points.length > 40) continue;
        for (const [x, y] of line.points) inner.append(make("circle", { class: `dot line-${line.i % 6}`, cx: toX(x), cy: toY(y), r: 2.5 }));
      }
      this.cursor = make("g");
      inner.append(this.cursor);
      this.plot.replaceChildren(...scene, inner);
      this.readout.textContent = "";
    }

    zoom(low, high) {
      const [least, most] = this.extent();
      const from = Math.max(least, Math.min(low, high)), to = Math.min(most, Math.max(low, high));
      this.range = to - from > 1e-6 * (most - least) ? [from, to] : this.range;
      if (this.range && this.range[0] <= least && this.range[1] >= most) this.range = null;
      this.draw();
    }

    pixel(event) {
      const box = this.plot.getBoundingClientRect();
      return (event.clientX - box.left) * this.width / box.width;
    }

    listen() {
      let start = null;
      this.plot.addEventListener("pointerdown", (event) => {
        start = this.pixel(event);
        this.plot.setPointerCapture(event.pointerId);
      });
      this.plot.addEventListener("pointermove", (event) => {
        const now = this.pixel(event);
        if (start === null) return this.point(now);
        this.cursor.replaceChildren(make("rect", { class: "chosen", x: Math.min(start, now), y: PADDING.top, width: Math.abs(now - start), height: this.height }));
      });
      this.plot.addEventListener("pointerup", (event) => {
        const now = this.pixel(event), begun = start;
        start = null;
        if (begun !== null && Math.abs(now - begun) > 6) this.zoom(this.fromX(begun), this.fromX(now));
        else this.point(now);
      });
      this.plot.addEventListener("pointercancel", () => { start = null; this.draw(); });
      this.plot.addEventListener("dblclick", () => { this.range = null; this.draw(); });
      this.plot.addEventListener("keydown", (event) => {
        const [low, high] = this.range ?? this.extent(), span = high - low;
        const moves = { "+": [0.2, -0.2], "=": [0.2, -0.2], "-": [-0.35, 0.35], ArrowLeft: [-0.2, -0.2], ArrowRight: [0.2, 0.2] };
        if (event.key === "0") { this.range = null; this.draw(); } else if (moves[event.key]) {
          const [left, right] = moves[event.key];
          this.zoom(low + left * span, high + right * span);
        } else return;
        event.preventDefault();
      });
    }

    point(pixel) {
      if (!this.fromX) return;
      const x = this.fromX(pixel);
      const marks = [], said = [];
      for (const line of this.lines()) {
        if (!line.points.length) continue;
        const near = line.points.reduce((best, point) => Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best);
        marks.push(make("circle", { class: `dot line-${line.i % 6}`, cx: this.toX(near[0]), cy: this.toY(near[1]), r: 4 }));
        said.push(`${line.name} ${words(near[1])}`);
      }
      this.cursor.replaceChildren(make("line", { class: "cursor", x1: this.toX(x), x2: this.toX(x), y1: 0, y2: this.height }), ...marks);
      this.readout.textContent = `${this.x.label} ${words(x)}: ${said.join(" · ")}`;
    }
  }

  for (const figure of document.querySelectorAll("[data-chart]")) {
    const data = charts[figure.dataset.chart];
    if (data) new Chart(figure, data);
  }
})();
