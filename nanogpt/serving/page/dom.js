// Elements from data. Text only ever becomes text: nothing on this page is parsed as HTML after it was loaded.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, on<event> listeners and children (nodes or strings; null is left out). */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** One of the drawings in index.html, hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A button that shows an icon alone; `label` is its name for screen readers and its tooltip. */
export function iconButton(name, label, onclick, attributes = {}) {
  return element("button", { type: "button", class: "icon-button", "aria-label": label, title: label, onclick, ...attributes },
    icon(name));
}

export const byId = (id) => document.getElementById(id);

/** Redraw `container` with `children`; the focus stays on the element of the same data-key. */
export function redraw(container, children) {
  const key = container.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  container.replaceChildren(...children);
  if (!key) return;
  const again = [...container.querySelectorAll("[data-key]")].find((child) => child.dataset.key === key && !child.disabled);
  again?.focus({ preventScroll: true });
}

/** Whitespace and control characters of a token, made visible. */
export function visible(text) {
  const marks = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };
  return text.replace(/[\s\u0000-\u001f\u007f]/g, (character) => marks[character] ?? `U+${hex(character)}`) || "∅";
}

/** The same in words, to be read aloud. */
export function spoken(text) {
  const words = { " ": " space ", "\n": " line end ", "\t": " tab " };
  return text.replace(/[ \n\t]/g, (character) => words[character]).trim() || "nothing";
}

const hex = (character) => character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

/** Stored values, where the browser allows storage. */
export function stored(storage, key) {
  try {
    return window[storage].getItem(key);
  } catch {
    return null;
  }
}

export function store(storage, key, value) {
  try {
    window[storage].setItem(key, value);
  } catch {
    // full or forbidden: the page works without
  }
}
