// Joins the feed of states to what shows them.

import { Feed } from "./feed.js";
import { Graph } from "./graph.js";
import { duration, rate, size, spark, timeline } from "./plots.js";
import { Table } from "./tables.js";

const CAPACITY = 60;
const $ = (id) => document.getElementById(id);
const list = (name) => document.querySelector(`[data-list="${name}"]`);
const number = new Intl.NumberFormat("en");
const ms = (value) => (value ? `${value.toFixed(value < 10 ? 2 : 0)} ms` : "–");
const share = (value) => `${(100 * value).toFixed(value && value < 0.1 ? 2 : 0)} %`;
const hasValue = (value) => value !== undefined && value !== null;

let history = new Map();
let totals = { sent: [], received: [] };
let before;
let isPaused = false;

const column = (title, value, more = {}) => ({ title, value, ...more });
const numeric = (title, value, text) => ({ title, value, text, kind: "number" });
const traffic = (row) => history.get(row.id) ?? { sent: [], received: [], window: [] };
const plotted = (name, kind, text) => (row) => [spark(traffic(row)[name], CAPACITY, kind), text(row)];
const latest = (row, name) => traffic(row)[name].at(-1) ?? 0;

const tables = {
  streams: new Table(list("streams"), [
    column("Peer", (r) => r.peer, { kind: "word" }),
    numeric("Port", (r) => r.port),
    column("State", (r) => r.state.toLowerCase().replaceAll("_", "-"), { kind: "word" }),
    { title: "Sent", kind: "number", value: (r) => latest(r, "sent"), cell: plotted("sent", "sent", (r) => rate(latest(r, "sent"))) },
    { title: "Received", kind: "number", value: (r) => latest(r, "received"), cell: plotted("received", "received", (r) => rate(latest(r, "received"))) },
    { title: "Window", kind: "number", value: (r) => r.window ?? 0, cell: plotted("window", "sent", (r) => size(r.window ?? 0)) },
    numeric("In flight", (r) => r.in_flight ?? 0, (r) => size(r.in_flight ?? 0)),
    numeric("Round trip", (r) => r.rtt_ms ?? 0, (r) => ms(r.rtt_ms)),
    numeric("Sent again", (r) => r.repeated ?? 0, (r) => number.format(r.repeated ?? 0)),
    column("Control", (r) => r.congestion ?? "", { kind: "word" }),
  ], { caption: "Streams of this node, the lines over the last two minutes.", empty: "No stream is open.", noun: "streams", order: 3, isDescending: true }),
  peers: new Table(list("peers"), [
    column("Node", (r) => r.address, { kind: "word" }),
    column("Path", (r) => r.path || "no session", { kind: "word" }),
    numeric("Round trip", (r) => r.rtt_ms ?? 0, (r) => ms(r.rtt_ms)),
    numeric("Loss", (r) => r.loss ?? 0, (r) => share(r.loss ?? 0)),
    numeric("Segment", (r) => r.mtu ?? 0, (r) => (r.mtu ? `${number.format(r.mtu)} B` : "–")),
    numeric("Path for", (r) => r.age ?? 0, (r) => duration(r.age ?? 0)),
  ], { caption: "Nodes that this one has exchanged keys with.", empty: "No peer yet.", noun: "peers" }),
  nodes: new Table(list("nodes"), [
    column("Address", (r) => r.address, { kind: "word" }),
    column("Name", (r) => r.hostname ?? ""),
    column("State", (r) => (r.online ? "online" : "offline"), { kind: "word" }),
    column("Reachable for", (r) => (r.public ? "everybody" : "trusted nodes"), { kind: "word" }),
    numeric("Trusts", (r) => r.trust_links ?? 0, (r) => number.format(r.trust_links ?? 0)),
    column("Tags", (r) => (r.tags ?? []).join(", ")),
  ], { caption: "Registered nodes.", empty: "No node is registered.", noun: "nodes" }),
  networks: new Table(list("networks"), [
    column("Name", (r) => r.name),
    numeric("Number", (r) => r.id),
    column("Join by", (r) => r.join_rule ?? "", { kind: "word" }),
    numeric("Members", (r) => r.members ?? -1, (r) => (hasValue(r.members) ? number.format(r.members) : "–")),
    numeric("Online", (r) => r.online ?? -1, (r) => (hasValue(r.online) ? number.format(r.online) : "–")),
  ], { caption: "Networks, and how many are in them.", empty: "None but the backbone.", noun: "networks", order: 1 }),
  beacons: new Table(list("beacons"), [
    column("Address", (r) => r.address),
    column("State", (r) => r.state ?? ""),
  ], { caption: "Beacons, the preferred one first.", empty: "No beacon.", noun: "beacons" }),
  events: new Table(list("events"), [
    { title: "Time", kind: "word", value: (r) => r.number, text: (r) => new Date(1000 * r.time).toLocaleTimeString("en-GB") },
    column("Level", (r) => r.level, { kind: "word" }),
    column("Event", (r) => r.event.replaceAll("_", " "), { kind: "word" }),
    column("Details", (r) => r.detail ?? "", { kind: "long" }),
  ], { caption: "Of this process’s log, the newest first.", empty: "Nothing has happened yet.", noun: "events", isDescending: true }),
};
const graph = new Graph($("trust"));

const push = (values, value) => [...values.slice(1 - CAPACITY), value];

function remember(state) {
  const seconds = before && state.uptime > before.uptime ? state.uptime - before.uptime : 0;
  const known = new Map((before?.streams ?? []).map((row) => [row.id, row]));
  const next = new Map();
  for (const row of state.streams ?? []) {
    const was = known.get(row.id);
    const old = traffic(row);
    const speed = (name) => (was && seconds ? Math.max(0, (row[name] ?? 0) - (was[name] ?? 0)) / seconds : 0);
    next.set(row.id, {
      sent: push(old.sent, speed("sent")),
      received: push(old.received, speed("received")),
      window: push(old.window, row.window ?? 0),
    });
  }
  history = next;
  const tile = (from, label) => from?.tiles?.find((each) => each.label === label)?.value ?? 0;
  if (seconds && state.streams) {
    const speed = (label) => Math.max(0, tile(state, label) - tile(before, label)) / seconds;
    totals = { sent: push(totals.sent, speed("Sent")), received: push(totals.received, speed("Received")) };
  }
  return seconds;
}

function showTiles(state, seconds) {
  $("figures").hidden = false;
  const old = new Map((before?.tiles ?? []).map((tile) => [tile.label, tile.value]));
  const made = (state.tiles ?? []).map((tile) => {
    const part = (name, text) => Object.assign(document.createElement(name), { textContent: text });
    const shown = tile.unit === "bytes" ? size(tile.value) : number.format(tile.value);
    const group = document.createElement("div");
    group.append(part("dt", tile.label), part("dd", shown));
    if (tile.is_total) {
      const speed = seconds ? Math.max(0, tile.value - (old.get(tile.label) ?? 0)) / seconds : 0;
      group.append(part("dd", tile.unit === "bytes" ? rate(speed) : `${number.format(Math.round(speed))}/s`));
    }
    return group;
  });
  $("tiles").replaceChildren(...made);
}

function showProblems(state) {
  const problems = Object.entries(state.problems ?? {});
  $("problems").hidden = problems.length === 0;
  const items = problems.map(([name, text]) =>
    Object.assign(document.createElement("li"), { textContent: `${name}: ${text}` }),
  );
  $("problems").querySelector("ul").replaceChildren(...items);
  say(problems.length ? "Not ready" : "Working", problems.length ? "bad" : "good");
}

function say(text, state) {
  const status = $("status");
  if (status.textContent !== text) status.textContent = text;
  status.dataset.state = state;
}

function show(state) {
  document.title = `${state.name} · Pilot`;
  $("name").textContent = state.name;
  const facts = [state.role, state.address !== state.name && state.address, `version ${state.version}`, `up for ${duration(state.uptime)}`];
  $("about").textContent = facts.filter(Boolean).join(" · ");
  $("login").hidden = state.is_operator ?? false;
  const seconds = remember(state);
  showTiles(state, seconds);
  showProblems(state);
  if (state.streams) {
    $("throughput").hidden = false;
    $("throughput-plot").replaceChildren(...timeline(totals.sent, totals.received, CAPACITY, 2 * CAPACITY));
  }
  for (const [name, table] of Object.entries(tables)) {
    if (hasValue(state[name])) table.update([...state[name]], state.totals?.[name]);
    else table.section.hidden = true;
  }
  if (state.nodes && state.trust) graph.update(state.nodes, state.trust);
  before = state;
}

const feed = new Feed({
  state: (state) => {
    if (!isPaused) show(state);
  },
  closed: (seconds) => say(`No connection; next attempt in ${seconds} s`, "bad"),
  refused: (wasGiven) => {
    say("Not signed in", "wait");
    $("login").hidden = false;
    $("login-error").textContent = wasGiven ? "That token is not right." : "";
  },
});

$("pause").addEventListener("click", () => {
  isPaused = !isPaused;
  $("pause").setAttribute("aria-pressed", String(isPaused));
  if (isPaused) say("Paused", "wait");
});
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  feed.setToken($("token").value.trim());
  $("token").value = "";
});
feed.start();
