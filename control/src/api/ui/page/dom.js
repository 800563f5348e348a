// Elements from values. Text is always text: names on this page are chosen by others.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/** Sets a node's text, if it is another one. */
export function say(node, text) {
  text = String(text);
  if (node.textContent !== text) node.textContent = text;
}

/** Sets or removes an attribute, if it changes. */
export function mark(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

/** Makes the children of `parent` those of `items`, in order: kept by key, made if new, removed if gone. */
export function keyed(parent, items, key, make, update) {
  const known = parent.pgKeys ?? (parent.pgKeys = new Map());
  const keep = new Set();
  let at = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    keep.add(name);
    let node = known.get(name);
    if (!node) known.set(name, (node = make(item)));
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
    update?.(node, item);
  }
  for (const [name, node] of known) {
    if (!keep.has(name)) {
      node.remove();
      known.delete(name);
    }
  }
}

/** The last minute of a number, as a line. */
export function sparkline(label) {
  const area = s("path", { class: "spark-area" });
  const line = s("path", { class: "spark-line" });
  const node = s("svg", { class: "spark", viewBox: "0 0 60 20", preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
  node.dataset.label = label;
  node.draw = (values) => {
    const most = Math.max(1e-9, ...values);
    const x = (at) => 60 - (values.length - 1 - at);
    const y = (value) => (19 - (value / most) * 17).toFixed(1);
    const points = values.map((value, at) => `${x(at)} ${y(value)}`).join("L");
    mark(line, "d", points && `M${points}`);
    mark(area, "d", points && `M${x(0)} 20L${points}L60 20Z`);
  };
  return node;
}

/** The last sixty of what is pushed. */
export class Minute {
  values = [];
  push(value) {
    this.values.push(value);
    if (this.values.length > 60) this.values.shift();
  }
}

export const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** What is said where there is nothing to show. */
export const nothing = (title, text) => h("div", { class: "nothing" }, h("h2", {}, title), h("p", {}, text));

/** A sentence of the gateway: what is between backticks is code. */
export const prose = (text) => text.split("`").map((part, at) => (at % 2 ? h("code", {}, part) : part));

/** A DNS name, which may break at its dots; what all names end in is quieter. */
export function dnsName(name, domain) {
  const tail = `.svc.${domain}.`;
  const own = name.endsWith(tail) ? name.slice(0, -tail.length) : name;
  const breaks = (text) => text.split(/(?<=[.])/).flatMap((part) => [part, h("wbr")]);
  return [breaks(own), name.endsWith(tail) && h("span", { class: "dim" }, breaks(tail))];
}
