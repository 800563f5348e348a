// What all views know of the gateway, and where the page is.

import { Minute } from "./dom.js";
import { Stream } from "./stream.js";

/** What is known of the gateway. */
export const known = {
  hello: null,
  tick: null,
  before: null,
  /** Rows of the list by their number, and their rates of the last second: [packets, bytes, flows]. */
  rows: new Map(),
  rates: new Map(),
  rowsVersion: 0,
  detail: null,
  /** Who joined or left, oldest first. */
  news: [],
  /** The counters of the Service that is looked at, now and a tick before. */
  service: null,
  serviceBefore: null,
  packets: new Minute(),
  dropped: new Minute(),
};

/** What a counter grew by per second, between the last two ticks. */
export function perSecond(of) {
  const { tick, before } = known;
  if (!tick || !before) return 0;
  const seconds = (tick.time - before.time) / 1000;
  return seconds > 0 ? Math.max(0, of(tick) - of(before)) / seconds : 0;
}

const total = (map) => Object.values(map).reduce((sum, count) => sum + count, 0);
export const dropsOf = (tick) => total(tick.counters.drops);

export const stream = new Stream({
  hello(hello) {
    known.hello = hello;
  },
  tick(tick) {
    // A stream that is opened again repeats the last one; after a restart, counters and numbers begin anew.
    if (tick.time === known.tick?.time) return;
    known.before = tick.number > (known.tick?.number ?? Infinity) ? known.tick : null;
    known.tick = tick;
    const seconds = tick.elapsed / 1000;
    known.rates = new Map();
    if (seconds > 0) {
      for (const [id, packets, bytes, flows] of tick.services) {
        known.rates.set(id, [packets / seconds, bytes / seconds, flows / seconds]);
      }
    }
    known.packets.push(perSecond((tick) => tick.counters.rx));
    known.dropped.push(perSecond(dropsOf));
    show("tick");
  },
  list(delta) {
    if (delta.reset) known.rows.clear();
    for (const row of delta.rows) known.rows.set(row.id, row);
    for (const id of delta.gone) known.rows.delete(id);
    known.rowsVersion++;
    if (!delta.more) show("list");
  },
  service(values) {
    const same = known.service?.name === values.name;
    [known.serviceBefore, known.service] = [same ? known.service : null, values];
    show("service");
  },
  detail(detail) {
    known.detail = detail;
    show("detail");
  },
  news(items) {
    // A stream that is opened again begins with what was known.
    const seen = new Set(known.news.map((item) => `${item.revision} ${item.service}`));
    known.news.push(...items.filter((item) => !seen.has(`${item.revision} ${item.service}`)));
    known.news.splice(0, known.news.length - 500);
    show("news");
  },
  fault: () => show("fault"),
});

export const look = (service) => {
  if (known.detail?.name !== service) known.detail = known.service = known.serviceBefore = null;
  stream.select(service);
};

/** Called with what is new: tick, list, service, detail or fault. */
export const listeners = [];
const show = (what) => listeners.forEach((listener) => listener(what));

// The fragment is the view: #/services/default/web?sort=rate

export function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/").map(decodeURIComponent);
  return { name, rest, query: new URLSearchParams(query) };
}

/** The fragment of a view. */
export function to(name, rest = [], query = {}) {
  const words = new URLSearchParams(Object.entries(query).filter(([, value]) => value));
  const tail = words.size ? `?${words}` : "";
  return `#/${[name, ...rest].map(encodeURIComponent).join("/")}${tail}`;
}

/** Remembers the state of the view without leaving it. */
export const remember = (hash) => history.replaceState(null, "", hash);
