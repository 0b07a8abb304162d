// A conversation as a tree: an edited message or a new answer is a sibling, and one child of each is the chosen one.
// And as a file: what is saved, and what a file must be to be opened.

const FORMAT = "nanogpt conversation";
const VERSION = 1;
export const LARGEST_FILE = 16 * 1024 * 1024; // bytes
const MOST_NODES = 5_000;
const LONGEST_TEXT = 200_000; // characters of a message
const MOST_TOKENS = 50_000; // of a message
const MOST_ALTERNATIVES = 20;

export class Tree {
  constructor() {
    this.root = { role: "root", text: "", parent: null, children: [], pick: 0 };
  }

  get isEmpty() {
    return this.root.children.length === 0;
  }

  /** A new child of `parent`, chosen at once. */
  add(parent, role, text = "") {
    const node = { role, text, parent, children: [], pick: 0, tokens: [], model: null, finish: null, stats: null };
    parent.pick = parent.children.push(node) - 1;
    return node;
  }

  /** The chosen messages, first to last. */
  path() {
    const chosen = [];
    for (let node = this.root; node.children.length; ) chosen.push((node = node.children[node.pick]));
    return chosen;
  }

  /** From the first message to `node`. */
  static upTo(node) {
    const chosen = [];
    for (; node.parent; node = node.parent) chosen.unshift(node);
    return chosen;
  }

  static turn(node, by) {
    const siblings = node.parent.children;
    node.parent.pick = Math.min(siblings.length - 1, Math.max(0, node.parent.pick + by));
  }

  /** The same messages again, sharing nothing. */
  copy() {
    return read(written(this), "copy");
  }
}

/** What the model reads before it writes the text of `node`'s child: nanogpt.inference.conversation.Play.prompt(). */
export function play(node, names, system) {
  const opening = system.trim() ? `${system.trim()}\n\n` : "";
  const parts = Tree.upTo(node).map((message) => {
    const words = message.text.trim().replace(/\n\s*\n/g, "\n");
    return `${message.role === "user" ? names.user : names.assistant}:\n${words}${words ? "\n\n" : "\n"}`;
  });
  return `${opening}${parts.join("")}${names.assistant}:\n`;
}

/** What ends the part: the empty line, or the user's name where the model leaves that out (Play.stops). */
export const playStops = (names) => ["\n\n", `\n${names.user}:\n`];

/** All words of a text so far. */
export const wholeText = (node) => Tree.upTo(node).map((part) => part.text).join("");

// Files

export function toFile(state) {
  const { mode, names, system } = state;
  const panes = state.panes.map(({ model, trees }) => ({ model, chat: written(trees.chat), text: written(trees.text) }));
  return JSON.stringify({ format: FORMAT, version: VERSION, mode, names, system, panes });
}

/** What toFile() wrote. Throws an Error whose message says in a line what is wrong. */
export function fromFile(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new Error("is no JSON file");
  }
  if (content?.format !== FORMAT) throw new Error(`is no conversation saved here (no "format": "${FORMAT}")`);
  if (content.version !== VERSION) throw new Error(`has version ${shown(content.version)}; this page reads version ${VERSION}`);
  const { mode, names, panes } = content;
  need(mode === "chat" || mode === "text", "mode", mode, '"chat" or "text"');
  for (const who of ["user", "assistant"]) {
    const name = names?.[who];
    need(isText(name, 100) && name.trim() && !/[\n:]/.test(name), `names.${who}`, name, "a name without a colon");
  }
  need(isText(content.system, LONGEST_TEXT), "system", content.system, "text");
  need(Array.isArray(panes) && (panes.length === 1 || panes.length === 2), "panes", panes, "one or two");
  return {
    mode,
    names: { user: names.user, assistant: names.assistant },
    system: content.system,
    panes: panes.map((pane, index) => {
      const where = `panes[${index}]`;
      need(pane?.model === null || isText(pane?.model, 300), `${where}.model`, pane?.model, "a model's name");
      return { model: pane.model, trees: { chat: read(pane.chat, `${where}.chat`), text: read(pane.text, `${where}.text`) } };
    }),
  };
}

/** Every message once, each after its parent, which it names by place. */
function written(tree) {
  const nodes = [];
  const waiting = tree.root.children.map((child) => [child, null]);
  while (waiting.length) {
    const [node, parent] = waiting.shift();
    const { role, text, pick, model, finish, stats } = node;
    const tokens = node.tokens.map((token) => [
      token.text, token.offset, token.logprob, token.alternatives.map((other) => [other.text, other.logprob]),
    ]);
    const place = nodes.push({ parent, role, text, pick, model, finish, stats, tokens }) - 1;
    waiting.push(...node.children.map((child) => [child, place]));
  }
  return { pick: tree.root.pick, nodes };
}

function read(content, where) {
  need(Array.isArray(content?.nodes), `${where}.nodes`, content?.nodes, "a list");
  need(content.nodes.length <= MOST_NODES, `${where}.nodes`, `${content.nodes.length} messages`, `at most ${MOST_NODES}`);
  const tree = new Tree();
  const made = content.nodes.map((node) => node && { role: node.role }); // filled in below, parents first
  content.nodes.forEach((node, index) => {
    const here = `${where}.nodes[${index}]`;
    need(node && typeof node === "object", here, node, "a message");
    const first = node.parent === null;
    need(first || (Number.isInteger(node.parent) && node.parent >= 0 && node.parent < index), `${here}.parent`, node.parent,
      "the place of an earlier message");
    need(node.role === "user" || node.role === "assistant", `${here}.role`, node.role, '"user" or "assistant"');
    need(isText(node.text, LONGEST_TEXT), `${here}.text`, node.text, `text of at most ${LONGEST_TEXT} characters`);
    const parent = first ? tree.root : made[node.parent];
    const added = tree.add(parent, node.role, node.text);
    added.model = isText(node.model, 300) ? node.model : null;
    added.finish = isText(node.finish, 30) ? node.finish : null;
    added.stats = statistics(node.stats, `${here}.stats`);
    added.tokens = tokens(node.tokens, `${here}.tokens`);
    made[index] = added;
  });
  choose(tree.root, content.pick, `${where}.pick`);
  made.forEach((node, index) => choose(node, content.nodes[index].pick, `${where}.nodes[${index}].pick`));
  return tree;
}

function choose(node, pick, where) {
  const last = Math.max(0, node.children.length - 1);
  need(Number.isInteger(pick) && pick >= 0 && pick <= last, where, pick, `0 to ${last}`);
  node.pick = pick;
}

function statistics(stats, where) {
  if (stats === null || stats === undefined) return null;
  const { tokens: count, rate, first, notes } = stats;
  need([count, rate, first].every((figure) => figure === null || (Number.isFinite(figure) && figure >= 0)), where, stats, "figures");
  need(Array.isArray(notes) && notes.length <= 5 && notes.every((note) => isText(note, 1_000)), `${where}.notes`, notes, "a few notes");
  return { tokens: count, rate, first, notes: [...notes] };
}

function tokens(content, where) {
  need(Array.isArray(content) && content.length <= MOST_TOKENS, where, content, `a list of at most ${MOST_TOKENS}`);
  const isLogprob = (value) => value === null || (Number.isFinite(value) && value <= 1e-3);
  return content.map((token, index) => {
    const here = `${where}[${index}]`;
    need(Array.isArray(token) && token.length === 4, here, token, "[text, offset, logprob, alternatives]");
    const [text, offset, logprob, alternatives] = token;
    need(isText(text, 1_000), `${here}[0]`, text, "text");
    need(offset === null || (Number.isInteger(offset) && offset >= 0), `${here}[1]`, offset, "an offset");
    need(isLogprob(logprob), `${here}[2]`, logprob, "a logarithm of a probability");
    need(Array.isArray(alternatives) && alternatives.length <= MOST_ALTERNATIVES &&
      alternatives.every((other) => Array.isArray(other) && isText(other[0], 1_000) && isLogprob(other[1])),
      `${here}[3]`, alternatives, "alternatives");
    return { text, offset, logprob, alternatives: alternatives.map(([other, its]) => ({ text: other, logprob: its })) };
  });
}

const isText = (value, longest) => typeof value === "string" && value.length <= longest;

function need(condition, key, found, allowed) {
  if (!condition) throw new Error(`${key} is ${shown(found)}; expected ${allowed}`);
}

function shown(value) {
  const text = value === undefined ? "missing" : JSON.stringify(value);
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
