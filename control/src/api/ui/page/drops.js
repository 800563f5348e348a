// Why frames were not delivered, how often, and what to do.

import { h, keyed, mark, Minute, nothing, prose, say, sparkline } from "./dom.js";
import { short, whole } from "./format.js";
import { known, perSecond, place, remember, to } from "./state.js";

const ORDER = ["error", "warning", "notice", "info"];
let tables, all, none, balance;
const minutes = new Map();

function rowOf(kind) {
  return ({ name, sentence, action, severity }) => {
    const cells = { rate: h("td", { class: "number" }), total: h("td", { class: "number" }), spark: sparkline(name) };
    const row = h("tr", { "data-reason": name },
      kind === "drops" && h("td", {}, h("span", { class: "severity", "data-severity": severity }, severity)),
      h("th", { scope: "row" }, h("code", {}, name)),
      h("td", {}, h("p", {}, prose(sentence)), h("p", { class: "remedy" }, prose(action))),
      cells.rate, h("td", { class: "spark-cell" }, cells.spark), cells.total);
    row.cells2 = cells;
    return row;
  };
}

function table(kind, title) {
  const body = h("tbody");
  const heads = [kind === "drops" && "Severity", "Reason", "What happened, and what to do", "per second", "last minute", "in all"].filter(Boolean);
  const node = h("table", { class: `reasons ${kind}` }, h("caption", {}, title), h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))), body);
  return { kind, node, body };
}

function draw() {
  const { tick, hello } = known;
  if (!tick || !hello) return;
  for (const { kind, node, body } of tables) {
    const count = (name) => tick.counters[kind][name] ?? 0;
    const rate = (name) => perSecond((tick) => tick.counters[kind][name] ?? 0);
    const rank = (reason) => ORDER.indexOf(reason.severity);
    const shown = hello[kind].filter(({ name }) => all.checked || count(name) > 0);
    shown.sort((a, b) => rank(a) - rank(b) || count(b.name) - count(a.name) || (a.name < b.name ? -1 : 1));
    keyed(body, shown, ({ name }) => name, rowOf(kind), (row, { name }) => {
      say(row.cells2.rate, rate(name) > 0 ? short(rate(name)) : "–");
      mark(row, "data-grows", rate(name) > 0 || null);
      say(row.cells2.total, whole(count(name)));
      row.cells2.spark.draw(minutes.get(`${kind} ${name}`)?.values ?? []);
    });
    node.hidden = shown.length === 0;
    if (kind === "drops") none.hidden = shown.length > 0;
  }
  const { counters } = tick;
  const sum = (map) => Object.values(map).reduce((sum, count) => sum + count, 0);
  const [came, parts] = [counters.rx + counters.originated, [counters.tx, counters.passed, counters.consumed, sum(counters.drops), counters.held]];
  say(balance, `${whole(came)} received or created = ${whole(parts[0])} sent + ${whole(parts[1])} left to the kernel + ${whole(parts[2])} consumed + ${whole(parts[3])} dropped + ${whole(parts[4])} held`);
}

export const drops = {
  name: "drops",
  title: "Drops",
  enter(main) {
    all = h("input", { type: "checkbox", onchange: () => { remember(to("drops", [], { all: all.checked ? "1" : "" })); draw(); } });
    all.checked = place().query.get("all") === "1";
    tables = [table("drops", "Frames that were not delivered"), table("passes", "Frames left to the kernel, because they are not the gateway's")];
    none = nothing("No frame was dropped", "Every frame that the gateway is responsible for was delivered since it started.");
    balance = h("p", { class: "balance" });
    main.append(h("div", { class: "page" }, h("header", { class: "page-head" }, h("h1", {}, "Drops"), h("label", { class: "switch" }, all, " Show every reason")), balance, none, tables.map(({ node }) => node)));
    none.hidden = true;
    draw();
  },
  moved: draw,
  update(what) {
    if (what === "tick") draw();
  },
  /** Also while another view is open: the last minute is there when this one is. */
  follow() {
    for (const kind of ["drops", "passes"]) {
      for (const name of Object.keys(known.tick.counters[kind])) {
        const key = `${kind} ${name}`;
        if (!minutes.has(key)) minutes.set(key, new Minute());
        minutes.get(key).push(perSecond((tick) => tick.counters[kind][name] ?? 0));
      }
    }
  },
};
