// The gateway: its stream, and single requests. The token stays in this tab's session storage, and goes in a header only.

const BASE = "/apis/pollgate.io/v1alpha1";
const KEY = "pollgate-token";
/** Without a tick for so long, what is shown is stale. */
export const STALE = 2500;

export function token(value) {
  if (value !== undefined) sessionStorage.setItem(KEY, value);
  return sessionStorage.getItem(KEY) ?? "";
}

function headers() {
  return token() ? { Authorization: `Bearer ${token()}` } : {};
}

/** A request; what is refused is an Error with the server's own message and its code. */
export async function ask(path, options = {}) {
  const response = await fetch(path.startsWith("/") ? path : `${BASE}/${path}`, {
    ...options, headers: { ...headers(), ...options.headers }, cache: "no-store", credentials: "omit", referrerPolicy: "no-referrer",
  });
  if (options.stream && response.ok) return response;
  const text = await response.text();
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    value = { message: text };
  }
  if (!response.ok) throw Object.assign(new Error(value.message || response.statusText), { code: response.status, status: value });
  return value;
}

const path = (text) => text.split("/").map(encodeURIComponent).join("/");
export const servicePath = (name, rest) => {
  const [namespace, own] = name.split("/");
  return `namespaces/${path(namespace)}/services/${path(own)}/${rest}`;
};

/** Follows the gateway, and calls `on[kind](value)` for each line. Opens the stream again for as long as the page lives. */
export class Stream {
  #abort;
  #service = null;
  #list = "";
  #turn = 0;
  /** Null while connected; otherwise why not. */
  fault = null;
  code = 0;
  lastTick = 0;

  constructor(on) {
    this.on = on;
  }

  /** Which Service is looked at. */
  select(service) {
    if (service === this.#service && this.#abort) return;
    this.#service = service;
    this.open();
  }

  open() {
    this.#abort?.abort();
    this.#abort = new AbortController();
    this.#follow(++this.#turn, this.#abort.signal);
  }

  async #follow(turn, signal) {
    for (let wait = 250; turn === this.#turn; wait = Math.min(wait * 2, 2000)) {
      try {
        await this.#read(signal, () => (wait = 250));
        this.#fails(turn, "the gateway ended the stream", 0);
      } catch (error) {
        if (signal.aborted) return;
        this.#fails(turn, error.message, error.code ?? 0);
      }
      await new Promise((done) => setTimeout(done, this.code === 401 ? 2000 : wait));
    }
  }

  #fails(turn, message, code) {
    if (turn !== this.#turn) return;
    [this.fault, this.code] = [message, code];
    this.on.fault?.();
  }

  async #read(signal, opened) {
    const query = new URLSearchParams();
    if (this.#service) query.set("service", this.#service);
    if (this.#list) query.set("list", this.#list);
    const response = await ask(`live?${query}`, { signal, stream: true });
    opened();
    [this.fault, this.code] = [null, 0];
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) this.#line(JSON.parse(line));
    }
  }

  #line(message) {
    for (const [kind, value] of Object.entries(message)) {
      if (kind === "list") this.#list = `${value.epoch}.${value.version}`;
      if (kind === "tick") this.lastTick = performance.now();
      this.on[kind]?.(value);
    }
  }
}
