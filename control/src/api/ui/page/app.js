// The page: which view is open, what all views know, and whether it is still true.

import { h, keyed, mark, say, sparkline } from "./dom.js";
import { age, short } from "./format.js";
import { dropsOf, known, listeners, look, perSecond, place, remember, stream, to } from "./state.js";
import { STALE, token } from "./stream.js";
import { services } from "./services.js";
import { ask } from "./ask.js";
import { drops } from "./drops.js";
import { events } from "./events.js";
import { guide } from "./guide.js";
import { workers } from "./workers.js";

const VIEWS = [services, ask, drops, events, workers, guide];

let view = null;

function takeToken() {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (!found) return;
  token(decodeURIComponent(found[1]));
  remember("#/services");
}

function route() {
  takeToken();
  const { name } = place();
  const next = VIEWS.find((view) => view.name === name) ?? services;
  if (next !== view) {
    view?.leave?.();
    view = next;
    const main = document.getElementById("main");
    main.replaceChildren();
    mark(main, "class", `view-${view.name}`);
    document.title = `${view.title} · pollgate`;
    view.enter(main);
  } else {
    view.moved?.();
  }
  if (!view.service) look(null);
  for (const link of document.querySelectorAll("#views a")) {
    mark(link, "aria-current", link.dataset.view === view.name ? "page" : null);
  }
}

listeners.push((what) => {
  if (what === "tick") {
    vitals();
    VIEWS.forEach((view) => view.follow?.());
  }
  if (what === "tick" || what === "fault") banner();
  view?.update?.(what);
});

// The top bar.
const vital = (name, title) => {
  const number = h("b");
  return { number, spark: null, node: h("span", { class: "vital", title }, number, h("span", {}, name)) };
};
const vitalSigns = {
  packets: vital("packets/s", "Frames received per second"),
  flows: vital("flows", "Flows in the tables"),
  drops: vital("drops/s", "Frames dropped per second"),
};
const packetLine = sparkline("packets per second");
const pulse = h("span", { class: "pulse" });
const pulseText = h("span", { class: "pulse-text" });

function vitals() {
  const { tick } = known;
  say(vitalSigns.packets.number, short(perSecond((tick) => tick.counters.rx)));
  say(vitalSigns.flows.number, short(tick.flows.live));
  const dropped = perSecond(dropsOf);
  say(vitalSigns.drops.number, short(dropped));
  mark(vitalSigns.drops.node, "data-bad", dropped > 0 || null);
  packetLine.draw(known.packets.values);
}

// The banner: how old the data is, and why.
const bannerText = h("span");
const tokenForm = h("form", { class: "token", onsubmit: (event) => {
  event.preventDefault();
  token(new FormData(tokenForm).get("token").trim());
  stream.open();
} }, h("label", {}, "Token ", h("input", { name: "token", type: "password", autocomplete: "off", spellcheck: "false" })), h("button", {}, "Use it"));

function banner() {
  const node = document.getElementById("banner");
  const since = stream.lastTick ? (performance.now() - stream.lastTick) / 1000 : null;
  const isStale = since !== null && since * 1000 > STALE;
  const faults = known.tick?.faults ?? [];
  let text = "";
  let kind = "bad";
  if (stream.code === 401) text = "This page has no valid token. Open the address that `pollgate ui` prints, or enter the token.";
  else if (stream.fault && since !== null) text = `The gateway does not respond: ${stream.fault}. What you see is ${age(since)} old. Trying again …`;
  else if (stream.fault) text = `The gateway does not respond: ${stream.fault}. Trying again …`;
  else if (isStale) text = `No news for ${age(since)}: what you see is old.`;
  else if (faults.length) [text, kind] = [faults.map(([name, fault]) => `${name}: ${fault}`).join(" · "), "warn"];
  mark(node, "data-kind", kind);
  node.hidden = !text;
  mark(document.body, "data-stale", isStale || Boolean(stream.fault) || null);
  say(bannerText, text);
  if (node.firstChild !== bannerText) node.replaceChildren(bannerText);
  if ((stream.code === 401) !== node.contains(tokenForm)) {
    if (stream.code === 401) node.append(tokenForm);
    else tokenForm.remove();
  }
  mark(pulse, "data-state", stream.fault ? "gone" : isStale ? "stale" : since === null ? "opening" : "live");
  say(pulseText, stream.fault ? "gone" : since === null ? "connecting" : isStale ? age(since) : "live");
}

// Light or dark, as the system has it, until the button says otherwise.
const THEMES = ["auto", "light", "dark"];
const theme = h("button", { class: "theme", type: "button", onclick: () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "auto") + 1) % THEMES.length];
  localStorage.setItem("pollgate-theme", next);
  setTheme(next);
} });
function setTheme(name) {
  document.documentElement.dataset.theme = name;
  say(theme, { auto: "◐", light: "☀", dark: "☾" }[name]);
  mark(theme, "aria-label", `Colours: ${name}`);
  mark(theme, "title", `Colours: ${name}`);
}

function start() {
  setTheme(localStorage.getItem("pollgate-theme") ?? "auto");
  keyed(document.getElementById("views"), VIEWS, (view) => view.name,
    (view) => h("a", { href: to(view.name), "data-view": view.name }, view.title));
  document.getElementById("vitals").append(packetLine, ...Object.values(vitalSigns).map((sign) => sign.node),
    h("span", { class: "vital state" }, pulse, pulseText), theme);
  addEventListener("hashchange", route);
  route();
  setInterval(banner, 500);
  document.addEventListener("visibilitychange", () => document.hidden || banner());
}

start();
