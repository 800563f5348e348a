// The list of all Services, and the one that is selected in four lanes.

import { h, keyed, mark, nothing, say } from "./dom.js";
import { short, whole } from "./format.js";
import { lanes } from "./lanes.js";
import { known, look, place, remember, to } from "./state.js";

const ROW = 52;
const SORTS = { rate: "by rate", trouble: "by trouble", name: "by name" };

let list, count, search, sort, side, order, cursor, top, spacer, isHeld, drawn;

const selected = () => {
  const { rest } = place();
  return rest.length === 2 ? rest.join("/") : null;
};

const rate = (row) => known.rates.get(row.id)?.[0] ?? 0;
const byName = (a, b) => (a.name < b.name ? -1 : 1);
const SORTERS = {
  rate: (a, b) => rate(b) - rate(a) || byName(a, b),
  trouble: (a, b) => Boolean(b.trouble) - Boolean(a.trouble) || rate(b) - rate(a) || byName(a, b),
  name: byName,
};

function address(name, more = {}) {
  return to("services", name ? name.split("/") : [], { q: search.value, sort: sort.value === "rate" ? "" : sort.value, ...more });
}

/** Orders the rows anew; while the list is in use they stay where they are. */
function arrange(isForced) {
  if (isHeld && !isForced) return draw();
  const wanted = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
  const text = (row) => `${row.name} ${row.kind} ${row.ports} ${row.trouble}`.toLowerCase();
  order = [...known.rows.values()];
  if (wanted.length) order = order.filter((row) => wanted.every((word) => text(row).includes(word)));
  order.sort(SORTERS[sort.value]);
  const all = known.rows.size;
  say(count, order.length === all ? `${whole(all)} Service${all === 1 ? "" : "s"}` : `${whole(order.length)} of ${whole(all)} Services`);
  draw();
}

/** Makes elements for the rows that can be seen, whatever their number. */
function draw() {
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 4);
  const shown = order.slice(first, first + Math.ceil(list.clientHeight / ROW) + 8);
  const chosen = selected();
  mark(spacer, "height", null);
  spacer.style.height = `${order.length * ROW}px`;
  keyed(spacer, shown.map((row, at) => ({ row: known.rows.get(row.id) ?? row, at: first + at })), ({ row }) => row.id, make, (node, { row, at }) => {
    node.style.transform = `translateY(${at * ROW}px)`;
    mark(node, "aria-posinset", at + 1);
    mark(node, "aria-setsize", order.length);
    mark(node, "aria-selected", String(row.name === chosen));
    mark(node, "data-cursor", row.name === cursor || null);
    update(node, row);
  });
  mark(list, "aria-activedescendant", shown.some((row) => row.name === cursor) ? rowId(cursor) : null);
  drawn = performance.now();
}

const rowId = (name) => `row-${name}`;

function make({ row }) {
  const [namespace, own] = row.name.split("/");
  const node = h("div", { class: "row", role: "option", id: rowId(row.name), onclick: () => choose(row.name) },
    h("span", { class: "health" }), h("span", { class: "row-name" }, h("b", {}, own), h("span", {}, namespace)),
    h("span", { class: "row-rate" }), h("span", { class: "row-more" }), h("span", { class: "row-ready" }));
  node.parts = Object.fromEntries(["health", "row-rate", "row-more", "row-ready"].map((name) => [name, node.querySelector(`.${name}`)]));
  return node;
}

function update(node, row) {
  const { parts } = node;
  const isAlias = row.kind === "ExternalName";
  const health = row.trouble ? "bad" : !isAlias && row.ready < row.endpoints ? "warn" : "good";
  mark(parts.health, "data-health", health);
  say(parts["row-rate"], rate(row) > 0 ? `${short(rate(row))}/s` : "");
  say(parts["row-more"], row.trouble || [row.kind, row.ports].filter(Boolean).join(" · "));
  mark(parts["row-more"], "data-bad", Boolean(row.trouble) || null);
  say(parts["row-ready"], isAlias ? "" : `${row.ready}/${row.endpoints}`);
  mark(parts["row-ready"], "title", isAlias ? null : `${row.ready} of ${row.endpoints} endpoints are ready`);
}

function choose(name) {
  cursor = name;
  if (name !== selected()) location.hash = address(name);
  draw();
}

function move(event) {
  const page = Math.max(1, Math.floor(list.clientHeight / ROW) - 1);
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
  if (event.key === "Enter" && cursor) return choose(cursor);
  const step = steps[event.key];
  if (step === undefined || !order.length) return;
  event.preventDefault();
  const at = order.findIndex((row) => row.name === cursor);
  const next = Math.min(order.length - 1, Math.max(0, at < 0 ? 0 : at + step));
  cursor = order[next].name;
  if (next * ROW < list.scrollTop) list.scrollTop = next * ROW;
  if ((next + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (next + 1) * ROW - list.clientHeight;
  draw();
}

function typed() {
  remember(address(selected()));
  list.scrollTop = 0;
  arrange(true);
}

function open() {
  const name = selected();
  cursor = name ?? cursor;
  look(name);
  if (!name) {
    lanes.leave();
    side.replaceChildren(nothing("Select a Service", "The list is sorted by packets per second. Use the arrow keys and Enter, or search by name, namespace, type, port or fault."));
    return;
  }
  lanes.enter(side, name);
}

export const services = {
  name: "services",
  title: "Services",
  enter(main) {
    const { query } = place();
    [order, isHeld, cursor] = [[], false, selected()];
    search = h("input", { type: "search", placeholder: "Search Services", "aria-label": "Search Services", oninput: typed, autocomplete: "off", spellcheck: "false", value: query.get("q") ?? "" });
    sort = h("select", { "aria-label": "Order", onchange: typed }, Object.entries(SORTS).map(([value, text]) => h("option", { value }, text)));
    sort.value = query.get("sort") in SORTS ? query.get("sort") : "rate";
    count = h("p", { class: "count", "aria-live": "off" });
    spacer = h("div", { class: "spacer", role: "presentation" });
    list = h("div", { class: "list", role: "listbox", "aria-label": "Services", tabindex: "0", onkeydown: move, onscroll: () => requestAnimationFrame(draw) }, spacer);
    const hold = (held) => () => { isHeld = held; };
    list.addEventListener("pointerenter", hold(true));
    list.addEventListener("pointerleave", hold(false));
    list.addEventListener("focus", hold(true));
    list.addEventListener("blur", hold(false));
    side = h("section", { class: "one", "aria-label": "The selected Service" });
    main.append(h("aside", { class: "all" }, h("div", { class: "tools" }, search, sort), count, list), side);
    top = new ResizeObserver(() => draw());
    top.observe(list);
    arrange(true);
    open();
  },
  moved() {
    const { query } = place();
    if ((query.get("q") ?? "") !== search.value) {
      search.value = query.get("q") ?? "";
      arrange(true);
    }
    open();
    draw();
  },
  update(what) {
    if (what === "tick" || what === "list") arrange(what === "list" && !isHeld);
    lanes.update(what);
  },
  leave() {
    top.disconnect();
    lanes.leave();
  },
  service: selected,
  drawn: () => drawn,
};
