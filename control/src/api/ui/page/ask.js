// What the gateway would do with a packet or a DNS query: each decision, and the packet before and after.

import { calm, h, nothing, prose } from "./dom.js";
import { percent } from "./format.js";
import { known, place, remember, to } from "./state.js";
import { ask as request } from "./stream.js";

/** A port that clients use, for a client that is named without one. */
const CLIENT_PORT = 40000;
const STEP = 160;
const TYPES = ["A", "AAAA", "SRV", "CNAME", "PTR", "NS", "SOA", "TXT", "ANY"];

let form, result, turn = 0;

const field = (name, label, hint, more = {}) => h("label", { class: "field" }, h("span", {}, label), h("input", { name, placeholder: hint, autocomplete: "off", spellcheck: "false", ...more }));

/** An address with a port; without one, with `port`. */
function withPort(text, port) {
  const bare = text.trim();
  const has = bare.startsWith("[") ? bare.includes("]:") : bare.split(":").length === 2;
  if (has || !port) return bare;
  return bare.includes(":") && !bare.startsWith("[") ? `[${bare}]:${port}` : `${bare}:${port}`;
}

function asked() {
  const values = Object.fromEntries(new FormData(form));
  if (values.what === "name") return { dns: values.dns.trim(), type: values.type };
  return { from: values.from.trim(), to: values.to.trim(), protocol: values.protocol };
}

async function submit(event) {
  event?.preventDefault();
  const query = asked();
  remember(to("ask", [], query));
  const own = ++turn;
  const sent = query.dns !== undefined ? query : { ...query, from: withPort(query.from, CLIENT_PORT) };
  result.replaceChildren(h("p", { class: "dim" }, "Asking …"));
  try {
    const report = await request(`trace?${new URLSearchParams(sent)}`);
    if (own === turn) draw(report, own);
  } catch (error) {
    if (own === turn) result.replaceChildren(h("p", { class: "refused", role: "alert" }, error.message));
  }
}

const at = (address, port) => (address.includes(":") ? `[${address}]:${port}` : `${address}:${port}`);

/** A packet on the wire: what differs from `before` is marked. */
function packet(title, from, to, before, note) {
  const end = (text, old) => h("span", { class: "mono end", "data-changed": old !== undefined && old !== text || null }, text);
  return h("div", { class: "packet" }, h("span", { class: "packet-title" }, title),
    h("span", { class: "ends" }, end(from, before?.[0]), h("span", { class: "arrow", "aria-label": "to" }, "→"), end(to, before?.[1])), note && h("span", { class: "dim" }, note));
}

function hop(hop) {
  return hop ? `by ${hop.interface}${hop.via ? ` via ${hop.via}` : ""}, ${hop.mac}, MTU ${hop.mtu}` : "";
}

function packets(report) {
  const { packet: came, translated } = report;
  if (!came) return null;
  const first = packet("request arrives", came.from, came.to, undefined, came.protocol);
  if (!translated) return h("div", { class: "wire-view" }, h("div", { class: "way" }, first));
  const source = translated.sourcePort === null ? `${translated.source}:(chosen)` : at(translated.source, translated.sourcePort);
  // The client's side is on the left, the endpoint's on the right: the reply goes back.
  return h("div", { class: "wire-view" },
    h("div", { class: "way", "data-way": "request" }, first, h("span", { class: "gate", "aria-hidden": "true" }), packet("leaves for the endpoint", source, translated.to, [came.from, came.to], hop(report.nextHop))),
    h("div", { class: "way", "data-way": "reply" }, packet("leaves for the client", came.to, came.from, [translated.to, source], hop(report.reply)), h("span", { class: "gate back", "aria-hidden": "true" }), packet("reply arrives", translated.to, source, undefined, came.protocol)));
}

function draw(report, own) {
  const steps = report.steps.map(({ stage, decision, why }) => h("li", { class: "step" }, h("span", { class: "stage" }, stage), h("div", {}, h("p", { class: "decision" }, prose(decision)), why && h("p", { class: "why" }, prose(why)))));
  const end = h("li", { class: "step end", "data-delivered": String(report.delivered) }, h("span", { class: "stage" }, report.result),
    h("div", {}, h("p", { class: "decision" }, prose(report.summary)), report.reason && h("p", { class: "why" }, h("code", {}, report.reason.name), " ", prose(report.reason.sentence)), report.reason && h("p", { class: "remedy" }, prose(report.reason.action))));
  const endpoints = report.endpoints?.length > 0 && h("table", { class: "reasons" }, h("caption", {}, "Endpoints of ", report.service),
    h("thead", {}, h("tr", {}, ["Endpoint", "Pod", "Share of new flows", "Why not"].map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, report.endpoints.map((item) => h("tr", { "data-used": String(item.used), "data-chosen": item.endpoint === report.translated?.to || null }, h("th", { scope: "row", class: "mono" }, item.endpoint || "–"), h("td", {}, item.pod || "–"), h("td", { class: "number" }, item.used ? percent(item.entries, item.size) : "–"), h("td", {}, item.why)))));
  const records = report.answer && h("table", { class: "reasons" }, h("caption", {}, `Response ${report.answer.rcode}${report.answer.truncated ? ", truncated" : ""}`),
    h("thead", {}, h("tr", {}, ["Type", "TTL", "Data"].map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, report.answer.records.map((record) => h("tr", {}, h("th", { scope: "row" }, record.type), h("td", { class: "number" }, record.ttl), h("td", { class: "mono wrap" }, record.data)))));
  const service = report.service && report.service.replace(/:[^:]*$/, "");
  result.replaceChildren(...[packets(report), h("ol", { class: "steps" }, steps, end), endpoints, records,
    h("p", { class: "dim" }, report.worker !== undefined && `Decided by worker ${report.worker}, `, `tables ${report.generation}. `, service && h("a", { href: to("services", service.split("/")) }, `Show ${service}`))].filter(Boolean));
  light([...steps, end], own);
}

/** Lights the steps one after the other. */
function light(steps, own) {
  const ways = result.querySelectorAll(".way");
  const done = () => ways.forEach((way) => way.setAttribute("data-lit", ""));
  if (calm()) {
    steps.forEach((step) => step.setAttribute("data-lit", ""));
    return done();
  }
  steps.forEach((step, at) => setTimeout(() => own === turn && step.setAttribute("data-lit", ""), at * STEP));
  setTimeout(() => own === turn && done(), steps.length * STEP);
}

function take() {
  const { query } = place();
  const what = query.has("dns") ? "name" : "packet";
  form.elements.what.value = what;
  for (const name of ["from", "to", "protocol", "dns", "type"]) if (query.get(name)) form.elements[name].value = query.get(name);
  form.dataset.what = what;
  const isWhole = what === "name" ? query.get("dns") : query.get("from") && query.get("to");
  if (isWhole) submit();
}

export const ask = {
  name: "ask",
  title: "Ask",
  enter(main) {
    const choice = (value, text) => h("label", {}, h("input", { type: "radio", name: "what", value, onchange: () => (form.dataset.what = value) }), ` ${text}`);
    const domain = known.hello?.domain ?? "cluster.local";
    form = h("form", { class: "ask", onsubmit: submit },
      h("div", { class: "choice", role: "radiogroup", "aria-label": "What to ask about" }, choice("packet", "A packet"), choice("name", "A name")),
      h("div", { class: "fields packet-fields" }, field("from", "Client", "192.0.2.7 or 192.0.2.7:40000"), field("to", "Address and port", "10.96.0.50:8080"),
        h("label", { class: "field" }, h("span", {}, "Protocol"), h("select", { name: "protocol" }, ["tcp", "udp", "sctp"].map((value) => h("option", { value }, value.toUpperCase()))))),
      h("div", { class: "fields name-fields" }, field("dns", "Name", `web.default.svc.${domain}`), h("label", { class: "field" }, h("span", {}, "Type"), h("select", { name: "type" }, TYPES.map((value) => h("option", { value }, value))))),
      h("button", { class: "primary" }, "Ask"));
    result = h("section", { class: "result", "aria-live": "polite", "aria-label": "Result" }, nothing("Ask the gateway", "The worker that would have the packet decides, by its own tables and flows, and changes nothing."));
    main.append(h("div", { class: "page" }, h("header", { class: "page-head" }, h("h1", {}, "Ask")), form, result));
    form.dataset.what = "packet";
    form.elements.what.value = "packet";
    take();
  },
  moved: take,
  leave() {
    turn++;
  },
};
