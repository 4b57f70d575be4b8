// Lines of SVG. Nothing here keeps state; every plot has a text that says the same.

const NS = "http://www.w3.org/2000/svg";

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(NS, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const SIZES = ["B", "kB", "MB", "GB", "TB", "PB"];

export function size(bytes) {
  let power = 0;
  while (bytes >= 999.5 && power < SIZES.length - 1) {
    bytes /= 1000;
    power += 1;
  }
  const digits = power === 0 || bytes >= 99.5 ? 0 : bytes >= 9.95 ? 1 : 2;
  return `${bytes.toFixed(digits)} ${SIZES[power]}`;
}

export function rate(bytes) {
  return `${size(bytes)}/s`;
}

export function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

function points(values, most, width, height, capacity) {
  // One value alone would be no line.
  if (values.length === 1) values = [values[0], values[0]];
  const step = width / Math.max(1, capacity - 1);
  const first = width - step * (values.length - 1);
  return values
    .map((value, i) => `${(first + i * step).toFixed(1)},${(height - 1 - (value / most) * (height - 2)).toFixed(1)}`)
    .join(" ");
}

// A small plot in a cell; the cell's text has the last value.
export function spark(values, capacity, kind) {
  const most = Math.max(1e-9, ...values);
  return svg(
    "svg",
    { class: "spark", viewBox: "0 0 112 24", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("polyline", { class: kind, points: points(values, most, 112, 24, capacity) }),
  );
}

// Two lines over time with their scale.
export function timeline(sent, received, capacity, seconds) {
  const most = Math.max(1, ...sent, ...received);
  const last = (values) => rate(values.at(-1) ?? 0);
  const grid = [0, 0.5, 1].map((at) =>
    svg("line", { class: "grid", x1: 0, x2: 800, y1: 119 - at * 118, y2: 119 - at * 118 }),
  );
  const plot = svg(
    "svg",
    {
      viewBox: "0 0 800 120",
      preserveAspectRatio: "none",
      role: "img",
      "aria-label": `Of the last ${seconds} seconds; now ${last(sent)} sent and ${last(received)} received, at most ${rate(most)}`,
    },
    ...grid,
    svg("polyline", { class: "sent", points: points(sent, most, 800, 120, capacity) }),
    svg("polyline", { class: "received", points: points(received, most, 800, 120, capacity) }),
  );
  const scale = document.createElement("p");
  scale.className = "muted legend";
  scale.textContent = `Last ${seconds} s; the top line is ${rate(most)}. Now ${last(sent)} sent, ${last(received)} received.`;
  return [plot, scale];
}
