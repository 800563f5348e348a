// The threads that carry packets: how busy each is, and how full its table.

import { h, keyed, mark, Minute, say, sparkline } from "./dom.js";
import { percent, short, whole } from "./format.js";
import { known, perSecond } from "./state.js";

const BURST = 64;
let cards, total;
const minutes = [];

const META = [
  ["rx", "frames in/s", "Frames received per second"],
  ["tx", "frames out/s", "Frames sent per second"],
  ["opened", "new flows/s", "Flows opened per second"],
  ["handedOver", "handed over/s", "Frames given to the worker that owns their flow, per second"],
  ["sleeps", "sleeps/s", "Times per second that it slept while waiting for frames"],
  ["missed", "lost before/s", "Frames per second that the kernel dropped because the receive ring was full"],
  ["drops", "drops/s", "Frames dropped per second"],
];

function meter(label, title) {
  const bar = h("span", { class: "meter-bar" });
  const value = h("b");
  const node = h("div", { class: "meter", title }, h("span", { class: "meter-label" }, label), value, h("span", { class: "meter-track", "aria-hidden": "true" }, bar));
  node.set = (part, text, isBad) => {
    bar.style.width = `${Math.min(100, Math.max(0, part * 100))}%`;
    say(value, text);
    mark(node, "data-bad", isBad || null);
  };
  return node;
}

function make({ at }) {
  const numbers = META.map(([key, label, title]) => {
    const value = h("b");
    const node = h("div", { class: "fact", title, "data-key": key }, value, h("span", {}, label));
    node.value = value;
    return node;
  });
  const card = h("article", { class: "card worker" }, h("h2", {}, `Worker ${at}`));
  card.numbers = numbers;
  card.spark = sparkline("frames per second");
  card.tables = h("span", { class: "dim" });
  card.busy = meter("rounds with frames", "Share of the loop's rounds that found frames: at 100 % the worker has no time to spare");
  card.burst = meter("burst filled", `Frames per burst, of at most ${BURST}: the fuller, the longer the receive rings are`);
  card.flows = meter("flow table", "Flows in the worker's table, of its part of flows.max");
  card.half = meter("unconfirmed", "Flows that their client has not confirmed, of those in the table");
  card.firstChild.append(card.tables);
  card.append(card.spark, h("div", { class: "meters" }, card.busy, card.burst, card.flows, card.half), h("div", { class: "facts" }, numbers));
  return card;
}

function update(card, { at, worker }) {
  const grew = (key) => perSecond((tick) => tick.workers[at]?.[key] ?? 0);
  for (const node of card.numbers) {
    const { key } = node.dataset;
    say(node.value, short(grew(key)));
    mark(node, "data-bad", ["missed", "drops"].includes(key) && grew(key) > 0 || null);
  }
  const [polls, bursts, rx] = [grew("polls"), grew("bursts"), grew("rx")];
  const busy = polls > 0 ? Math.min(1, bursts / polls) : 0;
  card.busy.set(busy, percent(busy, 1), busy > 0.95);
  const burst = bursts > 0 ? rx / bursts : 0;
  card.burst.set(burst / BURST, `${short(burst)} of ${BURST}`, burst / BURST > 0.9);
  const room = known.tick.flows.max / known.tick.workers.length;
  card.flows.set(worker.flows / room, `${short(worker.flows)} of ${short(room)}`, worker.flows / room > 0.9);
  card.half.set(worker.flows > 0 ? worker.halfOpen / worker.flows : 0, `${short(worker.halfOpen)}`);
  const lag = known.tick.generation - worker.generation;
  say(card.tables, lag <= 0 ? `tables ${worker.generation}` : `tables ${worker.generation}, ${lag} behind until its next burst`);
  card.spark.draw(minutes[at]?.values ?? []);
}

function draw() {
  const { tick } = known;
  if (!tick) return;
  keyed(cards, tick.workers.map((worker, at) => ({ worker, at })), ({ at }) => at, make, update);
  say(total, `${whole(tick.flows.live)} of ${whole(tick.flows.max)} flows · generation ${tick.generation} · revision ${tick.revision}`);
}

export const workers = {
  name: "workers",
  title: "Workers",
  enter(main) {
    cards = h("div", { class: "cards" });
    total = h("p", { class: "balance" });
    main.append(h("div", { class: "page" }, h("header", { class: "page-head" }, h("h1", {}, "Workers")), total, cards));
    draw();
  },
  update(what) {
    if (what === "tick") draw();
  },
  follow() {
    known.tick.workers.forEach((_, at) => (minutes[at] ??= new Minute()).push(perSecond((tick) => tick.workers[at]?.rx ?? 0)));
  },
};
