// The server: which models there are, a text as it is written, attention; its refusals in words a person can act on.

const CUT_OFF = "The connection ended before the text did. Is the server still running?";
let accessToken = null; // in memory only: neither storage nor a file ever sees it

export function useToken(token) {
  accessToken = token || null;
}

/** Something went wrong; `message` says what, and what to do. `status` is HTTP's, 0 where no answer came. */
class Failure extends Error {
  constructor(message, status = 0, retryAfter = null) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export async function models() {
  const answer = await (await ask("v1/models")).json();
  return Array.isArray(answer.data) ? answer.data.filter((model) => typeof model.id === "string") : [];
}

/** {chat: [...], text: [...]}: prompts that the model's alphabet can read. */
export async function examples(model) {
  return (await ask(`nanogpt/examples?model=${encodeURIComponent(model)}`)).json();
}

/** {tokens, layers}: the attention of the last token of `text`, layers × heads × tokens. */
export async function attention(model, text, signal) {
  return (await ask("nanogpt/attention", { body: { model, text }, signal })).json();
}

/**
 * A text as it is written: yields {text, tokens, finish, usage, nanogpt} for each event of the stream.
 * A token is {text, offset, logprob, alternatives: [{text, logprob}]}, the alternatives best first.
 */
export async function* complete(request, signal) {
  const body = { ...request, stream: true, stream_options: { include_usage: true } };
  const response = await ask("v1/completions", { body, signal });
  let ended = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const event = parsed(data);
    if (event.error) throw new Failure(inWords(response.status, message(event)), Number(event.error.code) || 500);
    const choice = event.choices?.[0];
    ended ||= Boolean(choice?.finish_reason);
    yield {
      text: choice?.text ?? "",
      tokens: tokensOf(choice?.logprobs),
      finish: choice?.finish_reason ?? null,
      usage: event.usage ?? null,
      nanogpt: event.nanogpt ?? null,
    };
  }
  if (!ended) throw new Failure(CUT_OFF);
}

/** The data of each server-sent event (WHATWG HTML, 9.2.6), however the bytes are cut. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let data = [];
  try {
    while (true) {
      const { done, value } = await reader.read().catch((error) => {
        throw error.name === "AbortError" ? error : new Failure(CUT_OFF); // the browser's words: "network error"
      });
      if (done) return; // an event without its empty line is not complete and does not count
      buffer += value;
      let end;
      while ((end = buffer.search(/\r\n|\n|\r(?!$)/)) >= 0) {
        const line = buffer.slice(0, end);
        buffer = buffer.slice(end + (buffer.startsWith("\r\n", end) ? 2 : 1));
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops reading wants the server to stop writing
  }
}

function tokensOf(logprobs) {
  if (!logprobs?.tokens) return [];
  return logprobs.tokens.map((text, index) => ({
    text,
    offset: logprobs.text_offset?.[index] ?? null,
    logprob: logprobs.token_logprobs?.[index] ?? null,
    alternatives: Object.entries(logprobs.top_logprobs?.[index] ?? {})
      .map(([other, logprob]) => ({ text: other, logprob }))
      .sort((one, other) => other.logprob - one.logprob),
  }));
}

async function ask(path, { body = null, signal = null } = {}) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (accessToken) headers.Authorization = `Bearer ${accessToken}`;
  let response;
  try {
    response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server does not answer. Is `nanogpt serve` still running?");
  }
  if (response.ok) return response;
  const said = message(parsed(await response.text().catch(() => "")));
  const after = Number(response.headers.get("Retry-After")) || null;
  throw new Failure(inWords(response.status, said, after), response.status, after);
}

function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value && typeof value === "object" ? value : {};
  } catch {
    return {};
  }
}

/** What the server said: OpenAI's form of an error, or FastAPI's. */
function message(answer) {
  const said = answer.error?.message ?? answer.error ?? answer.detail;
  if (Array.isArray(said)) return said.map((one) => `${(one.loc ?? []).at(-1) ?? ""}: ${one.msg}`).join("; ");
  return typeof said === "string" ? said : "";
}

function inWords(status, said, after = null) {
  const more = said ? ` (${said})` : "";
  const when = after ? `in ${after} s` : "in a moment";
  if (status === 401) return `The server asks for an access token${more}.`;
  if (status === 404) return said || "The model is not there any more. Choose another one.";
  if (status === 413) return `The text is too long for the server${more}. Shorten it, or begin a new one.`;
  if (status === 429) return `The server is busy${more}. Try again ${when}.`;
  if (status === 503) return `The server is stopping or still loading${more}. Try again ${when}.`;
  if (status >= 500) return `The server failed${more}. Its log says more.`;
  return said || `The server refused this (HTTP ${status}).`;
}
