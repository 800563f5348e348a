// The lessons, on the objects that are there.

import { dnsName, h, nothing, prose, say } from "./dom.js";
import { many, percent, short } from "./format.js";
import { moves } from "./events.js";
import { known, look, perSecond, place, to } from "./state.js";
import { ask as request, token } from "./stream.js";

const LESSONS = [["model", "Core model"], ["dns", "Discovery by DNS"], ["endpoints", "Selector → endpoint → Pod"], ["traffic", "Traffic flow"], ["life", "Lifecycle"], ["types", "Service types"], ["commands", "Commands"], ["practice", "Practice"], ["whatif", "What if"]];

const TYPES = [
  ["ClusterIP", "Services inside the cluster", "cluster", "A virtual IP that every Pod reaches"],
  ["headless", "Clients that choose a Pod themselves, databases", "cluster", "DNS names the Pods; nothing is balanced"],
  ["NodePort", "Simple access from outside", "gateway addresses", "ClusterIP, and a port at each gateway address"],
  ["LoadBalancer", "Public entry", "outside", "NodePort, and an address of its own from a pool"],
  ["ExternalName", "A name for something outside", "DNS only", "An alias (CNAME); no address, no endpoints"],
];

let root, name, live, nav, picker, built, asked = 0;

const selected = () => {
  const { rest } = place();
  if (rest.length >= 2) return rest.slice(0, 2).join("/");
  const rows = [...known.rows.values()].filter((row) => row.endpoints > 0);
  rows.sort((a, b) => (known.rates.get(b.id)?.[0] ?? 0) - (known.rates.get(a.id)?.[0] ?? 0) || (a.name < b.name ? -1 : 1));
  return (rows[0] ?? known.rows.values().next().value)?.name ?? null;
};

const lesson = (id, title, ...content) => h("section", { class: "lesson", id: `lesson-${id}`, "aria-labelledby": `title-${id}` }, h("h2", { id: `title-${id}` }, title), content);
const own = () => name.split("/")[1];
const spaced = () => (name.startsWith("default/") ? "" : ` -n ${name.split("/")[0]}`);
const numbers = (key, text) => { const node = h("b", {}, "–"); live.push([node, key]); return h("span", { class: "fact" }, node, h("span", {}, text)); };

/** Shown again each second. */
const GAUGES = {
  services: () => short(known.rows.size),
  endpoints: () => short(known.detail?.pods.filter((pod) => pod.endpoint === "yes").length ?? 0),
  pods: () => short(known.detail?.podCount ?? 0),
  revision: () => String(known.tick?.revision ?? "–"),
  generation: () => String(known.tick?.generation ?? "–"),
  oldest: () => (known.tick ? String(Math.min(...known.tick.workers.map((worker) => worker.generation))) : "–"),
  rate: () => {
    const row = [...known.rows.values()].find((row) => row.name === name);
    return `${short(known.rates.get(row?.id)?.[0] ?? 0)}/s`;
  },
  flows: () => short(known.tick?.flows.live ?? 0),
  dns: () => `${short(perSecond((tick) => ["dns_a", "dns_aaaa", "dns_srv", "dns_ptr", "dns_other"].reduce((sum, key) => sum + (tick.counters[key] ?? 0), 0)))}/s`,
};

function model() {
  const station = (title, text, ...facts) => h("li", {}, h("h3", {}, title), h("p", {}, text), h("div", { class: "facts" }, facts));
  return lesson("model", "Core model", h("p", {}, "Pods come and go, and their addresses with them. A Service is the name and the address that stay."),
    h("ol", { class: "stations" }, station("Client", "asks DNS for the name, and connects to the address", numbers("dns", "DNS queries")),
      station("Service", `${own()}: a stable name, address and port`, numbers("services", "Services here")),
      station("Endpoints", "the addresses of Pods that match and are ready", numbers("endpoints", "ready for this one")),
      station("Pods", "answer, and never see the Service's address", numbers("pods", "in its namespace"))));
}

function dns() {
  const { records } = known.detail;
  const domain = known.hello?.domain ?? "cluster.local";
  const [namespace] = name.split("/");
  const full = `${own()}.${namespace}.svc.${domain}`;
  const names = [[own(), `from Pods of namespace ${namespace}`], [`${own()}.${namespace}`, "from Pods of every namespace"], [`${full}.`, "the whole name"]];
  const answer = h("div", { class: "dim" }, "Asking …");
  request(`trace?${new URLSearchParams({ dns: full, type: "A" })}`).then((report) => answer.replaceChildren(h("p", { class: "mono" }, `${report.answer?.rcode ?? report.result}: ${report.answer?.records.map((record) => `${record.type} ${record.data}`).join(", ") || "no records"}`), h("p", { class: "dim" }, prose(report.summary))), (error) => say(answer, error.message));
  return lesson("dns", "Discovery by DNS", h("p", {}, "A client asks for the name. A Pod's search list completes short names."),
    h("table", { class: "plain" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Name"), h("th", { scope: "col" }, "Works"))), h("tbody", {}, names.map(([text, where]) => h("tr", {}, h("th", { scope: "row", class: "mono wrap" }, text), h("td", {}, where))))),
    h("h3", {}, "The answer now"), answer, h("p", {}, h("a", { href: to("ask", [], { dns: full, type: "A" }) }, "Each step of this answer")),
    records.some((record) => record.type === "SRV") && h("p", {}, "Named ports have SRV records too: ", h("code", { class: "wrap" }, dnsName(records.find((record) => record.type === "SRV" && record.name.startsWith("_"))?.name ?? "", domain))));
}

function endpoints() {
  const { explanation, pods } = known.detail;
  const pairs = Object.entries(explanation.selector);
  if (!pairs.length) return lesson("endpoints", "Selector → endpoint → Pod", h("p", {}, "This Service has no selector: its endpoints are written by others."), explanation.notes.map((note) => h("p", { class: "note" }, prose(note))));
  const cell = (pod, [key, value]) => h("td", { "data-match": pod.labels[key] === value ? "yes" : "no" }, h("span", { class: "mono" }, pod.labels[key] ?? "missing"));
  return lesson("endpoints", "Selector → endpoint → Pod", h("p", {}, "A Pod is an endpoint if it carries every label of the selector, has an address, and is ready. ", h("strong", {}, "Confirm this first"), " when a Service does not answer."),
    h("table", { class: "plain" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Pod"), pairs.map(([key, value]) => h("th", { scope: "col" }, `${key} = ${value}`)), h("th", { scope: "col" }, "Endpoint"))),
      h("tbody", {}, pods.slice(0, 12).map((pod) => h("tr", { "data-endpoint": pod.endpoint }, h("th", { scope: "row" }, pod.name), pairs.map((pair) => cell(pod, pair)), h("td", {}, pod.endpoint === "yes" ? "✓ yes" : `✗ ${pod.reason}`))))),
    known.detail.podCount > 12 && h("p", { class: "dim" }, `and ${many(known.detail.podCount - 12, "more Pod")}`));
}

function traffic() {
  const port = known.detail.ports[0];
  if (!port) return lesson("traffic", "Traffic flow", h("p", {}, "Nothing is balanced for this Service: clients connect to what DNS names."));
  const frontend = port.frontends[0];
  const ring = known.detail.rings.find((ring) => ring.index === port.index);
  const at = (address, number) => (address.includes(":") ? `[${address}]:${number}` : `${address}:${number}`);
  const target = at(frontend.address, frontend.port);
  return lesson("traffic", "Traffic flow", h("p", {}, "The gateway replaces the destination of each packet by an endpoint (DNAT), the same one for a whole connection, and the source of each reply by the Service's address."),
    h("ol", { class: "stations" }, h("li", {}, h("h3", {}, "A client sends to"), h("p", { class: "mono" }, target)), h("li", {}, h("h3", {}, "The ring chooses"), h("p", {}, `by a hash of addresses, ports and protocol, among ${many(ring?.backends.length ?? 0, "endpoint")}`)), h("li", {}, h("h3", {}, "An endpoint gets it"), h("p", { class: "mono" }, ring?.backends[0]?.backend ?? "none")), h("li", {}, h("h3", {}, "The reply comes from"), h("p", { class: "mono" }, target))),
    h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["Endpoint", "Share of new connections"].map((head) => h("th", { scope: "col" }, head)))), h("tbody", {}, (ring?.backends ?? []).slice(0, 12).map((share) => {
      const bar = h("span", { class: "bar-fill" });
      bar.style.width = `${(share.entries / ring.size) * 100}%`;
      return h("tr", {}, h("th", { scope: "row", class: "mono" }, share.backend), h("td", { class: "share" }, h("span", { class: "bar-track", "aria-hidden": "true" }, bar), percent(share.entries, ring.size)));
    }))),
    h("p", {}, h("a", { href: to("ask", [], { to: target, protocol: frontend.protocol.toLowerCase() }) }, "Follow a packet of your own")));
}

function life() {
  const step = (title, text, ...facts) => h("li", {}, h("h3", {}, title), h("p", {}, text), h("div", { class: "facts" }, facts));
  return lesson("life", "Lifecycle", h("p", {}, "From a manifest to a packet, in five steps."),
    h("ol", { class: "stations five" }, step("Apply", "The object is checked, given its address, and written to disk.", numbers("revision", "revision")), step("Select", "The controller lists the Pods that match as endpoints.", numbers("endpoints", "ready")),
      step("Compile", "Frontends, rings and DNS records become tables.", numbers("generation", "generation")), step("Publish", "Every worker reads the new tables with its next burst.", numbers("oldest", "oldest in use")), step("Serve", "Packets flow. A Pod that leaves gets no new connections; TCP connections stay.", numbers("rate", "packets"))));
}

function types() {
  const { kind } = known.detail.explanation;
  return lesson("types", "Service types", h("table", { class: "plain" }, h("thead", {}, h("tr", {}, ["Type", "Main use", "Reached from", "What it is"].map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, TYPES.map(([type, use, scope, what]) => h("tr", { "data-this": type === kind || null }, h("th", { scope: "row" }, type, type === kind && h("span", { class: "chip kind" }, "this one")), h("td", {}, use), h("td", {}, scope), h("td", {}, what))))));
}

/** A Table of the API, as kubectl prints it. */
const asText = ({ columnDefinitions, rows }) => {
  const at = columnDefinitions.map((column, index) => (column.priority ? null : index)).filter((index) => index !== null);
  const lines = [at.map((index) => columnDefinitions[index].name.toUpperCase()), ...rows.map((row) => at.map((index) => String(row.cells[index])))];
  const widths = at.map((_, column) => Math.max(...lines.map((line) => line[column].length)));
  return lines.map((line) => line.map((cell, column) => cell.padEnd(widths[column])).join("   ").trimEnd()).join("\n");
};

function commands() {
  const [namespace] = name.split("/");
  const table = (path) => request(path, { headers: { Accept: "application/json;as=Table;v=v1;g=meta.k8s.io" } }).then(asText);
  const list = [
    [`pollgate explain service ${own()}${spaced()}`, () => Promise.resolve(known.detail.text ?? "")],
    [`kubectl get service ${own()}${spaced()}`, () => table(`/api/v1/namespaces/${namespace}/services/${own()}`)],
    [`kubectl get endpointslices -l kubernetes.io/service-name=${own()}${spaced()}`, () => table(`/apis/discovery.k8s.io/v1/namespaces/${namespace}/endpointslices?labelSelector=${encodeURIComponent(`kubernetes.io/service-name=${own()}`)}`)],
  ];
  return lesson("commands", "Commands to recognise", h("p", {}, "With what they print now."), list.map(([command, run]) => {
    const output = h("pre", { tabindex: "0", "aria-label": `Output of ${command}` }, "…");
    run().then((text) => say(output, text.trimEnd()), (error) => say(output, error.message));
    return h("div", { class: "terminal" }, h("p", { class: "mono" }, h("span", { class: "dim", "aria-hidden": "true" }, "$ "), command), output);
  }));
}

function practice() {
  const pod = known.detail.pods.find((pod) => pod.endpoint === "yes");
  const [key, value] = Object.entries(known.detail.explanation.selector)[0] ?? ["app", "x"];
  const [namespace] = name.split("/");
  const task = (title, command, text) => h("li", {}, h("h3", {}, title), command && h("p", { class: "mono wrap command" }, command), h("p", {}, text));
  return lesson("practice", "Practice", h("p", {}, "In a terminal, with this page beside it. Each of them can be undone."), h("ol", { class: "tasks" },
    pod && task("Take a Pod out, and back in", `kubectl -n ${namespace} label pod ${pod.name} ${key}=other --overwrite`, prose(`Within a second ${pod.name} has a ✗, and the reason. \`${key}=${value}\` brings it back.`)),
    task("Break the selector", `kubectl -n ${namespace} set selector service ${own()} ${key}=nothing`, "Every Pod leaves, and new connections are refused: Drops counts them as reject_no_endpoints."),
    task("Find out why", `pollgate explain service ${own()}${spaced()}`, "The first line says what is wrong, and which Pod is nearest.")));
}

// What would move: the API's own dry run, with its controllers; nothing is written.
function whatIf() {
  const { pods, explanation } = known.detail;
  const pairs = Object.entries(explanation.selector);
  const [namespace] = name.split("/");
  const shown = pods.slice(0, 50);
  if (!shown.length || !pairs.length) return lesson("whatif", "What if", h("p", {}, "There is no Pod, or no selector, to change."));
  const pod = h("select", { name: "pod" }, shown.map((pod) => h("option", { value: pod.name }, `${pod.name} (${pod.endpoint === "yes" ? "endpoint" : "no endpoint"})`)));
  const change = h("select", { name: "change" }, h("option", { value: "label" }, "its label"), h("option", { value: "ready" }, "its readiness"), h("option", { value: "port" }, "the Service's target port"));
  const key = h("select", { name: "key" }, pairs.map(([key]) => h("option", { value: key }, key)));
  const value = h("input", { name: "value", value: "other", autocomplete: "off", spellcheck: "false" });
  const ready = h("select", { name: "ready" }, h("option", { value: "False" }, "not ready"), h("option", { value: "True" }, "ready"));
  const port = h("input", { name: "port", value: "9999", inputmode: "numeric", autocomplete: "off" });
  const field = (label, node, kind) => h("label", { class: "field", "data-for": kind }, h("span", {}, label), node);
  const result = h("div", { class: "whatif-result", "aria-live": "polite" });
  const run = async (event) => {
    event.preventDefault();
    const turn = ++asked;
    say(result, "Asking …");
    try {
      const object = change.value === "port" ? await request(`/api/v1/namespaces/${namespace}/services/${own()}`) : await request(`/api/v1/namespaces/${namespace}/pods/${pod.value}`);
      for (const field of ["resourceVersion", "uid", "managedFields", "creationTimestamp"]) delete object.metadata[field];
      if (change.value === "label") object.metadata.labels = { ...object.metadata.labels, [key.value]: value.value };
      if (change.value === "ready") {
        const others = (object.status?.conditions ?? []).filter((condition) => condition.type !== "Ready");
        object.status = { ...object.status, conditions: [...others, { type: "Ready", status: ready.value }] };
      }
      if (change.value === "port") for (const each of object.spec.ports) each.targetPort = /^\d+$/.test(port.value) ? Number(port.value) : port.value;
      const answer = await request("apply?dryRun=All", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(object) });
      if (turn !== asked) return;
      const changed = answer.items[0]?.result !== "unchanged";
      result.replaceChildren(h("h3", {}, answer.moved.length ? "This would move" : changed ? "No Service would have other endpoints" : "This is what is there already"),
        ...answer.moved.map((item) => h("div", { class: "card" }, h("h4", {}, item.service), moves(item), item.causes.map((cause) => h("p", { class: "dim" }, cause)))), h("p", { class: "dim" }, "Nothing was changed."));
    } catch (error) {
      if (turn === asked) result.replaceChildren(h("p", { class: "refused" }, error.message));
    }
  };
  const form = h("form", { class: "ask", onsubmit: run, "data-change": "label" }, field("Change", change), field("Pod", pod, "label ready"), field("Label", key, "label"), field("to", value, "label"), field("to", ready, "ready"), field("to", port, "port"), h("button", { class: "primary" }, "What if?"));
  change.addEventListener("change", () => (form.dataset.change = change.value));
  return lesson("whatif", "What if", h("p", {}, "A dry run: the gateway's own admission and controllers decide, and nothing is written."), form, result);
}

function build() {
  live = [];
  const area = root.querySelector(".guide-body");
  if (!known.detail?.explanation) return area.replaceChildren(nothing(name ?? "No Service", name ? "Waiting for the gateway …" : "Apply a Service first."));
  const { scrollTop } = root;
  // A question that is being asked stays, whatever changes meanwhile.
  const old = area.querySelector("#lesson-whatif");
  const isBusy = old && built === name && (old.contains(document.activeElement) || old.querySelector(".whatif-result")?.childNodes.length > 0);
  if (!isBusy) asked++;
  area.replaceChildren(...[model, dns, endpoints, traffic, life, types, commands, practice].map((make) => make()), isBusy ? old : whatIf());
  built = name;
  root.scrollTop = scrollTop;
  gauges();
}

function gauges() {
  for (const [node, key] of live ?? []) say(node, GAUGES[key]());
}

function open() {
  name = selected();
  look(name);
  const names = [...known.rows.values()].map((row) => row.name).sort().slice(0, 500);
  if (name && !names.includes(name)) names.unshift(name);
  picker.replaceChildren(...names.map((text) => h("option", { value: text }, text)));
  picker.value = name ?? "";
  build();
}

export const guide = {
  name: "guide",
  title: "Guide",
  enter(main) {
    picker = h("select", { "aria-label": "Service", onchange: () => (location.hash = to("guide", picker.value.split("/"))) });
    const jump = (id) => (event) => { event.preventDefault(); document.getElementById(`lesson-${id}`)?.scrollIntoView(); };
    nav = h("nav", { class: "lessons", "aria-label": "Lessons" }, h("ol", {}, LESSONS.map(([id, title]) => h("li", {}, h("a", { href: "#lesson", onclick: jump(id) }, title)))));
    built = null;
    root = h("div", { class: "page guide" }, h("header", { class: "page-head" }, h("h1", {}, "Guide"), picker), h("div", { class: "guide-columns" }, nav, h("div", { class: "guide-body" })));
    main.append(root);
    open();
  },
  moved: open,
  update(what) {
    if (what === "list" && (!name || !picker.options.length)) open();
    if (what === "detail" && known.detail.name === name) build();
    if (what === "tick") gauges();
  },
  service: () => selected(),
};
