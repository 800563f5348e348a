// One Service: names and records │ frontends │ the Service │ Pods, with what flows between them.

import { calm, dnsName, h, keyed, mark, Minute, nothing, prose, s, say, sparkline } from "./dom.js";
import { bits, many, percent, short, whole } from "./format.js";
import { known, to } from "./state.js";

const COLOURS = 8;
const RECORDS = 6;
const STRANGERS = 8;

let root, name, body, wires, minute, spark, facts, watcher, edges, isOpen = false;

/** Values of the Service's counters and their growth per second: of a port, or of a port's endpoint. */
function carried(port, backend) {
  const pick = (values) => {
    const of = values?.ports[port];
    return backend ? of?.backends?.[backend] : of;
  };
  const [now, before] = [pick(known.service), pick(known.serviceBefore)];
  const seconds = known.serviceBefore ? (known.service.time - known.serviceBefore.time) / 1000 : 0;
  const rate = (field) => (seconds > 0 && now ? Math.max(0, now[field] - (before?.[field] ?? 0)) / seconds : 0);
  return { now: now ?? { packets: 0, bytes: 0, flows: 0 }, packets: rate("packets"), bytes: rate("bytes"), flows: rate("flows") };
}

const portName = (service) => service.slice(service.lastIndexOf(":") + 1);
const bare = (endpoint) => endpoint.replace(/\/[A-Z]+$/, "");
const ringOf = (port) => known.detail.rings.find((ring) => ring.index === port.index && ring.policy === "Cluster") ?? known.detail.rings.find((ring) => ring.index === port.index);

function head() {
  const { explanation } = known.detail;
  const [namespace, own] = name.split("/");
  spark = sparkline("packets per second");
  facts = { packets: h("b"), flows: h("b"), bits: h("b"), total: h("b") };
  const fact = (node, text) => h("span", { class: "fact" }, node, h("span", {}, text));
  const frontend = known.detail.ports.flatMap((port) => port.frontends)[0];
  const target = frontend && `${frontend.address.includes(":") ? `[${frontend.address}]` : frontend.address}:${frontend.port}`;
  return h("header", { class: "one-head" },
    h("div", {}, h("h1", {}, own, h("span", { class: "dim" }, ` ${namespace}`)), h("p", { class: "chips" }, h("span", { class: "chip kind" }, explanation.kind),
      target && h("a", { class: "chip", href: to("ask", [], { to: target, protocol: frontend.protocol.toLowerCase() }) }, "Ask about a packet"))),
    h("div", { class: "facts" }, spark, fact(facts.packets, "packets/s"), fact(facts.flows, "connections/s"), fact(facts.bits, "throughput"), fact(facts.total, "packets in all")));
}

/** The data of a record; of an SRV record without the target, which is the Service's own name. */
const datum = (data, domain) => data.split(" ").map((word, at, all) => (at === all.length - 1 && word.includes(".") ? dnsName(word, domain) : `${word} `));

// Lane 1: what DNS has.
function names() {
  const { records, explanation } = known.detail;
  const domain = known.hello?.domain ?? "cluster.local";
  const [namespace, own] = name.split("/");
  const full = `${own}.${namespace}.svc.${domain}.`;
  const groups = new Map();
  for (const record of records) {
    const group = groups.get(record.name) ?? [];
    group.push(record);
    groups.set(record.name, group);
  }
  const sorted = [...groups].sort(([a], [b]) => (b === full) - (a === full) || (a < b ? -1 : 1));
  const card = ([text, items]) => h("article", { class: "card", "data-node": "name" }, h("h3", { class: "dns" }, h("span", {}, dnsName(text, domain))),
    items.filter((item) => item.type).map((item) => h("p", { class: "record" }, h("span", { class: "type" }, item.type), h("span", { class: "mono" }, item.data.map((data) => h("span", { class: "datum" }, datum(data, domain)))), h("span", { class: "dim" }, `${item.ttl} s`))),
    items.every((item) => !item.type) && h("p", { class: "dim" }, "exists, without records of its own"));
  const none = explanation.answers.find((answer) => answer.via === "DNS")?.address;
  return [sorted.slice(0, RECORDS).map(card),
    sorted.length > RECORDS && h("p", { class: "dim rest" }, `and ${many(sorted.length - RECORDS, "more name")}`),
    !sorted.length && h("article", { class: "card none", "data-node": "name" }, h("p", {}, none ? `DNS: ${none}` : "No DNS records.")),
    explanation.kind !== "ExternalName" && sorted.length > 0 && h("p", { class: "dim rest" }, "In its namespace also ", h("code", {}, own), ", elsewhere ", h("code", {}, `${own}.${namespace}`), ".")];
}

// Lane 2: where clients connect, by Service port.
function frontends() {
  const { ports, explanation } = known.detail;
  if (!ports.length) {
    const why = explanation.kind === "headless" ? "Headless: clients connect to the Pods themselves." : explanation.kind === "ExternalName" ? "An alias: nothing is balanced." : "No address is served.";
    return h("article", { class: "card none" }, h("p", {}, why));
  }
  return ports.map((port) => h("article", { class: "card", "data-node": `front ${port.index}` }, h("h3", {}, portName(port.service)),
    port.frontends.map((frontend) => h("p", { class: "front" }, h("span", { class: "mono" }, `${frontend.address.includes(":") ? `[${frontend.address}]` : frontend.address}:${frontend.port}`),
      h("span", { class: "dim" }, `${frontend.kind} · ${frontend.protocol}`)))));
}

// Lane 3: whom it selects, by which policies, with which shares.
function service() {
  const { explanation, ports } = known.detail;
  const pairs = Object.entries(explanation.selector);
  const chip = (text) => h("span", { class: "chip mono" }, text);
  const notes = explanation.notes.map((note) => h("p", { class: "note" }, prose(note)));
  const row = (label, value) => h("div", { class: "pair" }, h("dt", {}, label), h("dd", {}, value));
  // Policies are the Service's: every port has the same.
  const policies = ports[0];
  return [ports.map((port) => {
    const ring = ringOf(port);
    const size = ring?.size ?? 0;
    const shares = ring?.backends ?? [];
    return h("article", { class: "card", "data-node": `port ${port.index}`, "data-refused": !port.hasEndpoints || null },
      h("h3", {}, portName(port.service), h("span", { class: "live", "data-rate": port.service })),
      h("div", { class: "ring", role: "img", "aria-label": `Ring shares: ${shares.map((share) => `${share.backend} ${percent(share.entries, size)}`).join(", ") || "none"}` },
        shares.map((share, at) => {
          const part = h("span", { "data-colour": at % COLOURS, title: `${share.backend}: ${share.entries} of ${size} entries` });
          part.style.flexGrow = share.entries;
          return part;
        })),
      h("p", { class: "dim" }, port.hasEndpoints ? `${many(shares.length, "endpoint")} on a ring of ${whole(size)}` : "No endpoint: new connections are refused (reject_no_endpoints)"));
  }), h("article", { class: "card main-card", "data-node": "service" },
    h("h3", {}, "Selector"), h("p", { class: "chips" }, pairs.length ? pairs.map(([key, value]) => chip(`${key}=${value}`)) : h("span", { class: "dim" }, "none")),
    notes,
    policies && h("dl", {}, row("inside traffic", policies.internalTrafficPolicy), row("outside traffic", policies.externalTrafficPolicy),
      policies.sessionAffinity !== "None" && row("affinity", policies.sessionAffinity),
      policies.sourceRanges.length > 0 && row("sources", policies.sourceRanges.join(", "))))];
}

// Lane 4: Pods, and why they are in or out.
function pods() {
  const { pods, podCount, ports } = known.detail;
  const colours = new Map();
  const sharesOf = new Map();
  for (const port of ports) {
    const ring = ringOf(port);
    ring?.backends.forEach((share, at) => {
      if (!colours.has(share.backend)) colours.set(share.backend, at % COLOURS);
      sharesOf.set(`${port.index} ${share.backend}`, percent(share.entries, ring.size));
    });
  }
  const listed = new Set(pods.flatMap((pod) => pod.endpoints.map(bare)));
  const foreign = [...new Set(ports.flatMap((port) => present(port).map(endpoint)))].filter((at) => !listed.has(at));
  const others = foreign.map((at) => ({ name: at, address: "", endpoint: "yes", reason: "", endpoints: [at], labels: {}, matched: 0, foreign: true }));
  let strangers = 0;
  const shown = [...pods, ...others].filter((pod) => pod.endpoint !== "no" || pod.matched > 0 || ++strangers <= STRANGERS);
  const rest = podCount + others.length - shown.length;
  const pairs = Object.entries(known.detail.explanation.selector);
  return [shown.map((pod) => {
    const colour = pod.endpoints.map((at) => colours.get(bare(at))).find((at) => at !== undefined);
    const word = { yes: "✓", "not ready": "…", leaving: "⇥", no: "✗" }[pod.endpoint];
    return h("article", { class: "card pod", "data-endpoint": pod.endpoint, "data-node": `pod ${pod.name}` },
      h("h3", {}, h("span", { class: "verdict", "data-colour": colour ?? "none", role: "img", "aria-label": pod.endpoint === "yes" ? "endpoint" : pod.endpoint === "no" ? "no endpoint" : pod.endpoint }, word), h("span", { class: "wrap" }, pod.name), h("span", { class: "mono dim" }, pod.address)),
      pod.reason && h("p", { class: "why" }, pod.reason),
      pod.matched > 0 && pod.endpoint === "no" && pairs.length > 0 && h("p", { class: "chips" }, pairs.map(([key, value]) => {
        const own = pod.labels[key];
        return h("span", { class: "chip mono", "data-match": own === value ? "yes" : "no" }, own === undefined ? `${key} missing` : `${key}=${own}`);
      })),
      pod.endpoint !== "no" && ports.filter((port) => pod.endpoints.some((at) => present(port).some((backend) => endpoint(backend) === bare(at)))).map((port) => {
        const at = bare(pod.endpoints.find((at) => present(port).some((backend) => endpoint(backend) === bare(at))));
        return h("p", { class: "front" }, h("span", { class: "mono" }, `:${at.slice(at.lastIndexOf(":") + 1)}`), h("span", { class: "dim" }, sharesOf.has(`${port.index} ${at}`) ? `${sharesOf.get(`${port.index} ${at}`)} of new flows` : "no new flows"), h("span", { class: "live", "data-rate": `${port.service} ${at}` }));
      }));
  }), rest > 0 && h("p", { class: "dim rest" }, `and ${many(rest, "more Pod")} that ${rest === 1 ? "is" : "are"} no endpoint`)];
}

/** Backends without those that are gone and whose slots are not taken yet. */
const present = (port) => port.backends.filter((backend) => backend.serving || backend.cluster || backend.local);
const endpoint = (backend) => (backend.address.includes(":") ? `[${backend.address}]:${backend.port}` : `${backend.address}:${backend.port}`);

function build() {
  if (!known.detail.explanation) {
    root.replaceChildren(nothing(name, "There is no such Service."));
    body = null;
    return;
  }
  const lane = (title, content) => h("section", { class: "lane" }, h("h2", {}, title), content);
  wires = s("svg", { class: "wires", "aria-hidden": "true" });
  body = h("div", { class: "lanes" }, wires, lane("Names and records", names()), lane("Frontends", frontends()), lane("Service", service()), lane("Pods", pods()));
  const scroll = root.querySelector(".lanes-scroll")?.scrollTop ?? 0;
  const area = h("div", { class: "lanes-scroll", tabindex: "0", role: "group", "aria-label": "The Service's names, frontends, policies and Pods" }, body);
  root.replaceChildren(head(), area);
  area.scrollTop = scroll;
  connect();
  watcher.disconnect();
  watcher.observe(body);
  flow();
}

const ownPorts = () => [...new Set(known.detail.ports.map((port) => port.service))];

/** Which cards are joined, by what. */
function connect() {
  const { ports, pods } = known.detail;
  edges = [];
  const node = (key) => body.querySelector(`[data-node="${CSS.escape(key)}"]`);
  const nameCard = body.querySelector('[data-node="name"]');
  for (const port of ports) {
    edges.push({ from: nameCard, to: node(`front ${port.index}`), kind: "name" });
    const isAlone = ports.filter((other) => other.service === port.service).length === 1;
    // The counters of a port of both families are one; those of its endpoints are not.
    const backends = isAlone ? [undefined] : present(port).map(endpoint);
    edges.push({ from: node(`front ${port.index}`), to: node(`port ${port.index}`), kind: port.hasEndpoints ? "port" : "refused", port: port.service, backends });
    for (const backend of present(port)) {
      const at = endpoint(backend);
      const pod = pods.find((pod) => pod.endpoints.some((own) => bare(own) === at))?.name ?? at;
      edges.push({ from: node(`port ${port.index}`), to: node(`pod ${pod}`), kind: "backend", port: port.service, backends: [at] });
    }
  }
  if (!ports.length) edges.push({ from: nameCard, to: node("service"), kind: "name" });
  for (const pod of pods) {
    if (pod.endpoint === "no" && pod.matched > 0) edges.push({ from: node("service"), to: node(`pod ${pod.name}`), kind: "no" });
  }
  edges = edges.filter((edge) => edge.from && edge.to);
  trace();
}

/** Lays the wires between the cards, where these are now. */
function trace() {
  if (!body?.isConnected) return;
  const frame = body.getBoundingClientRect();
  mark(wires, "width", frame.width);
  mark(wires, "height", body.scrollHeight);
  const middle = (card, isEnd) => {
    const box = (card.querySelector("h3") ?? card).getBoundingClientRect();
    const edge = card.getBoundingClientRect();
    return [(isEnd ? edge.left : edge.right) - frame.left, box.top + box.height / 2 - frame.top];
  };
  edges.forEach((edge, at) => (edge.key = `${at}`));
  keyed(wires, edges, (edge) => `${edge.kind} ${edge.port ?? ""} ${edge.key}`, (edge) => {
    const group = s("g", { class: `wire ${edge.kind}` }, s("path", { class: "wire-line" }), s("path", { class: "wire-dots" }));
    [group.line, group.dots] = group.children;
    return group;
  }, (group, edge) => {
    const [[x1, y1], [x2, y2]] = [middle(edge.from), middle(edge.to, true)];
    const bend = (x2 - x1) / 2;
    const d = `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`;
    mark(group, "class", `wire ${edge.kind}`);
    mark(group.line, "d", d);
    mark(group.dots, "d", d);
    edge.group = group;
  });
}

/** Rates on the wires: the width is the share, the dots' speed the rate. */
function flow() {
  if (!body?.isConnected || known.detail?.name !== name) return;
  const all = ownPorts().reduce((sum, port) => sum + carried(port).packets, 0);
  for (const edge of edges ?? []) {
    if (!edge.port || !edge.group) continue;
    const packets = edge.backends.reduce((sum, backend) => sum + carried(edge.port, backend).packets, 0);
    const share = all > 0 ? packets / all : 0;
    edge.group.line.style.strokeWidth = packets > 0 ? (1.5 + share * 10).toFixed(1) : "1";
    mark(edge.group, "data-flows", packets > 0 || null);
    if (packets > 0 && !calm()) edge.group.dots.style.animationDuration = `${Math.max(0.25, 2.4 - Math.log10(1 + packets) * 0.45).toFixed(2)}s`;
  }
  for (const node of body.querySelectorAll("[data-rate]")) {
    const [port, backend] = node.dataset.rate.split(" ");
    const { packets } = carried(port, backend);
    say(node, packets > 0 ? `${short(packets)}/s` : "");
  }
  const ports = ownPorts().map((port) => carried(port));
  const sum = (of) => ports.reduce((sum, port) => sum + of(port), 0);
  say(facts.packets, short(sum((port) => port.packets)));
  say(facts.flows, short(sum((port) => port.flows)));
  say(facts.bits, bits(sum((port) => port.bytes)));
  say(facts.total, whole(sum((port) => port.now.packets)));
  spark.draw(minute.values);
}

export const lanes = {
  enter(parent, service) {
    if (isOpen && name === service && root === parent) return;
    [root, name, isOpen, minute, body] = [parent, service, true, new Minute(), null];
    watcher ??= new ResizeObserver(() => trace());
    root.replaceChildren(nothing(service, "Waiting for the gateway …"));
    if (known.detail?.name === service) build();
  },
  update(what) {
    if (!isOpen) return;
    if (what === "detail" && known.detail.name === name) build();
    if (what === "service" && known.service.name === name) {
      const ports = Object.keys(known.service.ports);
      if (known.serviceBefore) minute.push(ports.reduce((sum, port) => sum + carried(port).packets, 0));
      if (known.detail) flow();
    }
  },
  leave() {
    isOpen = false;
    watcher?.disconnect();
  },
};
