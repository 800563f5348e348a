// Numbers as people read them.

const STEPS = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];

/** 0, 0.4, 12, 1.2 k, 3.4 M */
export function short(value) {
  for (const [size, unit] of STEPS) {
    if (value >= size * 0.9995) return `${(value / size).toFixed(value >= size * 100 ? 0 : 1)} ${unit}`;
  }
  if (value > 0 && value < 10 && !Number.isInteger(value)) return value < 0.05 ? "<0.1" : value.toFixed(1);
  return String(Math.round(value));
}

/** Bits per second of bytes per second. */
export const bits = (bytes) => `${short(bytes * 8)}bit/s`.replace(/(\d)bit/, "$1 bit");

export const whole = (value) => value.toLocaleString("en-US").replaceAll(",", "\u202f");

export const percent = (part, all) => (all > 0 ? `${((part / all) * 100).toFixed(part > 0 && part / all < 0.0995 ? 1 : 0)} %` : "0 %");

export function age(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

export const many = (count, what) => `${whole(count)} ${what}${count === 1 ? "" : "s"}`;

/** A long DNS name may break at its dots. */
export const splitName = (name) => name.split("/");
