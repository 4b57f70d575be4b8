// The trust graph. Nodes with most links are in the middle; few of them are pulled together by
// their links, many lie in a spiral, which needs no time. The table of nodes has the same facts.

import { svg } from "./plots.js";

const FEW = 150;
const NAMED = 30;
const GOLDEN = Math.PI * (3 - Math.sqrt(5));

function spiral(count) {
  return Array.from({ length: count }, (_, i) => {
    const radius = Math.sqrt((i + 0.5) / count);
    return { x: radius * Math.cos(i * GOLDEN), y: radius * Math.sin(i * GOLDEN) };
  });
}

// Forces between all pairs (Fruchterman and Reingold); always the same result for the same graph.
function pull(places, links) {
  const ideal = 1.3 / Math.sqrt(places.length);
  for (let heat = 0.1; heat > 0.002; heat *= 0.96) {
    const moves = places.map(() => ({ x: 0, y: 0 }));
    places.forEach((a, i) => {
      for (let j = 0; j < i; j += 1) {
        const [dx, dy] = [a.x - places[j].x, a.y - places[j].y];
        const push = (ideal * ideal) / Math.max(1e-4, dx * dx + dy * dy);
        moves[i].x += dx * push; moves[i].y += dy * push;
        moves[j].x -= dx * push; moves[j].y -= dy * push;
      }
      // Towards the middle, so that parts do not drift apart.
      moves[i].x -= 0.05 * a.x; moves[i].y -= 0.05 * a.y;
    });
    for (const [i, j] of links) {
      const [dx, dy] = [places[i].x - places[j].x, places[i].y - places[j].y];
      const length = Math.hypot(dx, dy) / ideal;
      moves[i].x -= dx * length; moves[i].y -= dy * length;
      moves[j].x += dx * length; moves[j].y += dy * length;
    }
    places.forEach((place, i) => {
      const length = Math.max(1e-9, Math.hypot(moves[i].x, moves[i].y));
      const step = Math.min(heat, length) / length;
      place.x += moves[i].x * step; place.y += moves[i].y * step;
    });
  }
  return places;
}

// Onto the picture, whose width is twice its height.
function fitted(places) {
  const [xs, ys] = [places.map((p) => p.x), places.map((p) => p.y)];
  const scale = (values, from, to) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return (v) => (high - low < 1e-9 ? (from + to) / 2 : from + ((v - low) / (high - low)) * (to - from));
  };
  const [sx, sy] = [scale(xs, 60, 900), scale(ys, 25, 455)];
  return places.map((p) => ({ x: sx(p.x), y: sy(p.y) }));
}

export class Graph {
  constructor(section) {
    this.section = section;
    this.holder = section.querySelector("#trust-graph");
    this.note = section.querySelector("#trust-note");
    this.drawn = "";
  }

  update(nodes, trust) {
    this.section.hidden = false;
    const key = JSON.stringify([nodes.map((n) => [n.address, n.online, n.hostname]), trust]);
    if (key === this.drawn) return;
    this.drawn = key;
    const degree = new Map();
    for (const pair of trust) for (const end of pair) degree.set(end, (degree.get(end) ?? 0) + 1);
    const linked = nodes
      .filter((node) => degree.has(node.address))
      .sort((a, b) => degree.get(b.address) - degree.get(a.address) || (a.address < b.address ? -1 : 1));
    const alone = nodes.length - linked.length;
    this.note.textContent = trust.length
      ? `${trust.length} pairs among ${linked.length} nodes; ${alone} more have no trust yet. A hollow circle is a node that is offline.`
      : "No two nodes trust each other yet.";
    this.holder.hidden = trust.length === 0;
    this.draw(linked, trust);
  }

  draw(nodes, trust) {
    const number = new Map(nodes.map((node, i) => [node.address, i]));
    const links = trust
      .map(([a, b]) => [number.get(a), number.get(b)])
      .filter(([a, b]) => a !== undefined && b !== undefined);
    const raw = spiral(nodes.length);
    const places = fitted(nodes.length <= FEW ? pull(raw, links) : raw);
    const radius = nodes.length <= FEW ? 7 : 3.5;
    const picture = svg("svg", {
      viewBox: "0 0 960 480",
      role: "img",
      "aria-label": `Graph of ${links.length} pairs of nodes that trust each other`,
    });
    for (const [a, b] of links) {
      picture.append(svg("line", { x1: places[a].x, y1: places[a].y, x2: places[b].x, y2: places[b].y }));
    }
    nodes.forEach((node, i) => {
      const { x, y } = places[i];
      const dot = svg("circle", { cx: x, cy: y, r: radius, class: node.online ? "" : "offline" });
      const title = svg("title");
      title.textContent = node.hostname ? `${node.hostname}, ${node.address}` : node.address;
      dot.append(title);
      picture.append(dot);
      if (nodes.length <= NAMED) {
        const label = svg("text", { x, y: y - 12, "text-anchor": "middle" });
        label.textContent = node.hostname || node.address.slice(-9);
        picture.append(label);
      }
    });
    this.holder.replaceChildren(picture);
  }
}
