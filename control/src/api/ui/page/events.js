// Who joined a Service or left it, because of which change, and after how long it was live.

import { h, keyed, nothing, prose, say } from "./dom.js";
import { many } from "./format.js";
import { known, place, remember, to } from "./state.js";

let body, table, none, search;

/** Microseconds, as people read them. */
export function span(micros) {
  if (micros === null || micros === undefined) return "–";
  if (micros < 1000) return `${micros} µs`;
  if (micros < 1e6) return `${(micros / 1000).toFixed(micros < 1e4 ? 1 : 0)} ms`;
  return `${(micros / 1e6).toFixed(1)} s`;
}

const clock = (time) => new Date(time).toLocaleTimeString("en-GB");

export function moves({ joined, left, more }) {
  const list = (items, sign, kind) => items.map((text) => h("p", { class: `move ${kind}` }, h("span", { "aria-label": kind }, sign), h("span", { class: "mono" }, text)));
  return [list(joined, "+", "joined"), list(left, "−", "left"), more > 0 && h("p", { class: "dim" }, `and ${many(more, "more endpoint")}`)];
}

function row(item) {
  return h("tr", { "data-service": item.service }, h("td", { class: "number" }, h("time", { datetime: new Date(item.time).toISOString() }, clock(item.time))),
    h("th", { scope: "row" }, h("a", { href: to("services", item.service.split("/")), class: "wrap" }, item.service)), h("td", {}, moves(item)),
    h("td", { class: "wrap" }, item.causes.map((cause) => h("p", {}, prose(cause)))), h("td", { class: "number" }, span(item.took)));
}

function draw() {
  const wanted = search.value.trim().toLowerCase();
  const shown = known.news.filter((item) => !wanted || `${item.service} ${item.causes} ${item.joined} ${item.left}`.toLowerCase().includes(wanted));
  keyed(body, [...shown].reverse(), (item) => `${item.revision} ${item.service}`, row);
  table.hidden = shown.length === 0;
  none.hidden = shown.length > 0;
  say(none.querySelector("p"), known.news.length ? "No event has these words." : "As soon as an endpoint joins a Service or leaves it, it is here. What happened before the gateway started is not kept.");
}

export const events = {
  name: "events",
  title: "Events",
  enter(main) {
    search = h("input", { type: "search", placeholder: "Search events", "aria-label": "Search events", oninput: () => { remember(to("events", [], { q: search.value })); draw(); }, value: place().query.get("q") ?? "" });
    body = h("tbody");
    table = h("table", { class: "reasons events" }, h("caption", {}, "Endpoints that joined or left, newest first"),
      h("thead", {}, h("tr", {}, ["Time", "Service", "Endpoints", "Because of", "Live after"].map((head) => h("th", { scope: "col" }, head)))), body);
    none = nothing("Nothing has moved", " ");
    main.append(h("div", { class: "page" }, h("header", { class: "page-head" }, h("h1", {}, "Events"), search),
      h("p", { class: "balance" }, "Live after: from the request's arrival until it was on disk and in the tables that workers use with their next burst."), table, none));
    draw();
  },
  update(what) {
    if (what === "news") draw();
  },
};
