// A sweep as it goes: asks for view.json every two seconds and draws it. Everything of a sweep reaches the page as text,
// by textContent, so nothing that a job or an error says can become markup.
"use strict";

const EVERY_MS = 2000;
const PHASES = ["done", "running", "oom", "failed", "waiting"];
const WORDS = { done: "done", running: "running", oom: "out of memory", failed: "failed", waiting: "waiting" };
const SVG = "http://www.w3.org/2000/svg";

const find = (id) => document.getElementById(id);

function made(tag, about = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(about)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function drawn(tag, about = {}, text = null) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(about)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  return node;
}

function duration(seconds) {
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60), hours = Math.floor(minutes / 60);
  const two = (number) => String(number).padStart(2, "0");
  if (hours) return `${hours} h ${two(minutes % 60)} min`;
  return minutes ? `${minutes} min ${two(whole % 60)} s` : `${whole} s`;
}

function show(view) {
  const { status, heartbeat, left } = view;
  document.title = `${status.finished}/${status.total} ${status.name}`;
  find("name").textContent = status.name || "sweep";
  find("life").textContent = status.life;
  find("life").className = `badge ${status.sign}`;
  find("bar").setAttribute("aria-label", `${status.finished} of ${status.total} trials finished`);
  find("bar").replaceChildren(...PHASES.filter((phase) => phase !== "waiting").map((phase) => part(status, phase)));
  find("counts").replaceChildren(...PHASES.filter((phase) => status.counts[phase] || phase === "done").map((phase) =>
    made("li", { class: phase }, made("b", {}, count(status, phase)), ` ${WORDS[phase]}`)));
  find("pace").textContent = pace(heartbeat, left, status);
  find("note").textContent = status.cut_off.length
    ? `${status.cut_off.length} trials were cut off; run the job again to go on.` : "";
  const running = Object.values(heartbeat ? heartbeat.running : {});
  fill("running", running.map(runningRow));
  fill("failed", Object.entries(status.failed).map(([trial, reason]) =>
    made("tr", {}, made("td", {}, status.settings[trial] || ""), made("td", {}, reason || "no reason given"), made("td", { class: "soft" }, trial))));
  find("fronts").replaceChildren(...view.fronts.map(frontPart));
  if (view.front_note) find("fronts").append(made("p", { class: "soft" }, view.front_note));
  find("seen").textContent = `Seen at ${new Date().toLocaleTimeString()}, from the results folder alone. Read-only.`;
}

const count = (status, phase) =>
  phase === "done" ? `${status.counts.done} of ${status.total}` : String(status.counts[phase]);

function part(status, phase) {
  const node = made("span", { class: phase });
  node.style.width = `${(100 * status.counts[phase]) / Math.max(1, status.total)}%`;
  return node;
}

function pace(heartbeat, left, status) {
  const parts = [];
  if (heartbeat && heartbeat.samples_per_s !== null) parts.push(`${Number(heartbeat.samples_per_s.toPrecision(3))} samples/s`);
  if (left) {
    const range = `${duration(left.low)} to ${duration(left.high)}`;
    parts.push(`about ${duration(left.seconds)} left, ${range} (${left.basis})`);
  } else if (status.running.length) {
    parts.push("time left not known: no trial has ended in this run");
  }
  return parts.join(", ");
}

function fill(id, rows) {
  find(`${id}-part`).hidden = !rows.length;
  find(id).tBodies[0].replaceChildren(...rows);
}

function runningRow(one) {
  const step = one.total > 1 ? `${one.phase} ${one.done}/${one.total}` : one.phase;
  const far = one.note ? `${step}, ${one.note}` : step;
  const bar = one.total > 1 ? [track(one.done / one.total)] : [];
  return made("tr", {}, made("td", {}, one.name), made("td", {}, far), made("td", {}, ...bar),
    made("td", { class: "soft" }, duration(one.seconds)));
}

function track(share) {
  const filled = made("span");
  filled.style.width = `${100 * share}%`;
  return made("div", { class: "track", "aria-hidden": "true" }, filled);
}

function frontPart(front) {
  const best = front.spots.filter((spot) => spot.on_front);
  const count = made("small", {}, ` ${best.length} of ${front.spots.length + front.not_shown} finished are on the front`);
  const node = made("article", {}, made("h2", {}, "Front so far", count), made("p", { class: "soft" }, front.group));
  const key = `Bars: 95 % intervals. Labels: ${Object.keys(best[0].knobs).join(" · ")}`;
  if (front.objectives.length === 2) node.append(made("figure", {}, chart(front), made("figcaption", {}, key)));
  node.append(made("div", { class: "wide" }, frontTable(front, best)));
  node.append(...front.legend.map((sentence) => made("p", { class: "soft" }, sentence)));
  node.append(...front.beware.map((sentence) => made("p", { class: "soft beware" }, `Beware: ${sentence}`)));
  return node;
}

// With its mark, as in every other table: = for a limit that did not bind.
const setting = (spot, knob) => `${spot.knobs[knob]}${spot.marks[knob] || ""}`;

// The units of every other table: a fraction stays one.
const scaled = (objective) => [1, objective.unit === "fraction" ? "" : objective.unit];

// As the header of every other table.
function withUnit(objective) {
  const unit = scaled(objective)[1];
  return unit ? `${objective.column} (${unit})` : objective.column;
}

function axisLabel(objective) {
  const unit = scaled(objective)[1], words = objective.column.split("_").filter((word) => word !== unit).join(" ");
  return unit ? `${words} (${unit})` : words;
}

function frontTable(front, best) {
  const knobs = Object.keys(best[0].knobs);
  const head = made("tr", {}, ...[...knobs, ...front.objectives.map(withUnit)].map((text) => made("th", {}, text)));
  const rows = best.map((spot) => made("tr", {}, ...knobs.map((knob) => made("td", {}, setting(spot, knob))),
    ...front.objectives.map((one, i) => valueCell(spot, one, i))));
  return made("table", {}, made("thead", {}, head), made("tbody", {}, ...rows));
}

function valueCell(spot, objective, i) {
  const factor = scaled(objective)[0], digits = objective.unit === "fraction" ? 3 : 2;
  const cell = made("td", {}, (spot.values[i] * factor).toFixed(digits));
  if (spot.low[i] !== null && spot.high[i] !== null) {
    const ends = [spot.low[i], spot.high[i]].map((end) => (end * factor).toFixed(digits));
    cell.append(made("i", {}, ` [${ends.join(", ")}]`));
  }
  return cell;
}

// --- the chart: the second objective across, the first up ---

const BOX = { width: 860, height: 380, left: 62, right: 18, top: 14, bottom: 46 };

function chart(front) {
  const [y, x] = front.objectives;
  const across = axis(front.spots, 1, scaled(x)[0], BOX.left, BOX.width - BOX.right, true);
  const up = axis(front.spots, 0, scaled(y)[0], BOX.height - BOX.bottom, BOX.top, false);
  const svg = drawn("svg", { viewBox: `0 0 ${BOX.width} ${BOX.height}`, role: "img",
    "aria-label": `${axisLabel(y)} against ${axisLabel(x)}, the table below has the front` });
  svg.append(...grid(across, up, axisLabel(x), axisLabel(y)));
  const best = front.spots.filter((spot) => spot.on_front);
  svg.append(drawn("path", { class: "steps", d: staircase(best, across, up, x, y) }));
  for (const spot of [...front.spots.filter((spot) => !spot.on_front), ...best]) svg.append(...point(spot, across, up));
  svg.append(...labels(best, across, up));
  return svg;
}

function axis(spots, i, factor, from, to, mayBeLog) {
  const ends = spots.flatMap((spot) => [spot.low[i] ?? spot.values[i], spot.high[i] ?? spot.values[i]]).map((v) => v * factor);
  let low = Math.min(...ends), high = Math.max(...ends);
  const log = mayBeLog && low > 0 && high / low >= 8;
  const f = log ? Math.log10 : (v) => v;
  const margin = 0.06 * (f(high) - f(low) || Math.abs(f(high)) || 1);
  const start = f(low) - margin, end = f(high) + margin;
  const place = (raw) => from + ((f(raw * factor) - start) / (end - start)) * (to - from);
  return { place, factor, from, to, ticks: (log ? logTicks : linearTicks)(start, end).map((v) => [v, place(v / factor)]) };
}

function linearTicks(start, end) {
  const rough = (end - start) / 6, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((m) => m * power >= rough);
  const ticks = [];
  for (let i = Math.ceil(start / step); i * step <= end; i += 1) ticks.push(Number((i * step).toPrecision(12)));
  return ticks;
}

function logTicks(start, end) {
  const ticks = [];
  for (let power = Math.floor(start); power <= end; power += 1) {
    for (const m of [1, 2, 5]) if (Math.log10(m) + power >= start && Math.log10(m) + power <= end) ticks.push(Number((m * 10 ** power).toPrecision(6)));
  }
  return ticks;
}

function grid(across, up, xLabel, yLabel) {
  const bottom = BOX.height - BOX.bottom, right = BOX.width - BOX.right, nodes = [];
  for (const [value, at] of across.ticks) {
    nodes.push(drawn("line", { class: "grid", x1: at, x2: at, y1: BOX.top, y2: bottom }));
    nodes.push(drawn("text", { class: "soft", x: at, y: bottom + 16, "text-anchor": "middle" }, value));
  }
  for (const [value, at] of up.ticks) {
    nodes.push(drawn("line", { class: "grid", x1: BOX.left, x2: right, y1: at, y2: at }));
    nodes.push(drawn("text", { class: "soft", x: BOX.left - 8, y: at + 4, "text-anchor": "end" }, value));
  }
  nodes.push(drawn("path", { class: "axis", fill: "none", d: `M${BOX.left} ${BOX.top}V${bottom}H${right}` }));
  nodes.push(drawn("text", { x: (BOX.left + right) / 2, y: BOX.height - 8, "text-anchor": "middle" }, xLabel));
  const middle = (BOX.top + bottom) / 2;
  nodes.push(drawn("text", { x: 14, y: middle, "text-anchor": "middle", transform: `rotate(-90 14 ${middle})` }, yLabel));
  return nodes;
}

// Better costs more only once it is paid for: steps, not a line between points that nobody ran.
function staircase(best, across, up, x, y) {
  const sign = x.better === "lower" ? 1 : -1;
  const sorted = [...best].sort((a, b) => sign * (a.values[1] - b.values[1]));
  const corner = (spot) => [across.place(spot.values[1]), up.place(spot.values[0])];
  const [first, ...rest] = sorted.map(corner);
  const end = sign > 0 ? across.to : across.from, floor = y.better === "higher" ? up.from : up.to;
  return `M${first[0]} ${floor}L${first.join(" ")}${rest.map(([px, py]) => `H${px}V${py}`).join("")}H${end}`;
}

function point(spot, across, up) {
  const x = across.place(spot.values[1]), y = up.place(spot.values[0]), look = spot.on_front ? "front" : "beaten";
  const bars = [];
  if (spot.low[1] !== null && spot.high[1] !== null) bars.push(`M${across.place(spot.low[1])} ${y}H${across.place(spot.high[1])}`);
  if (spot.low[0] !== null && spot.high[0] !== null) bars.push(`M${x} ${up.place(spot.low[0])}V${up.place(spot.high[0])}`);
  const dot = drawn("circle", { class: look, cx: x, cy: y, r: spot.on_front ? 4.5 : 3.5 });
  const said = Object.entries(spot.knobs).map(([knob, value]) => `${knob}=${value}`).join(" ") || "as trained";
  dot.append(drawn("title", {}, said));
  return [drawn("path", { class: `whisker ${look}`, d: bars.join("") }), dot];
}

// A label that would cover another is left out; the table names every point.
function labels(best, across, up) {
  const taken = [], nodes = [];
  for (const spot of best) {
    const text = Object.keys(spot.knobs).map((knob) => setting(spot, knob)).join(" · "), width = 6.2 * text.length;
    const x = across.place(spot.values[1]), y = up.place(spot.values[0]);
    const left = x - 7 - width, free = (at) => taken.every(([tx, ty, tw]) => at + width < tx || at > tx + tw || Math.abs(ty - y) > 13);
    const at = [left, x + 7].find((place) => place > BOX.left && place + width < BOX.width && free(place));
    if (at === undefined) continue;
    taken.push([at, y, width]);
    nodes.push(drawn("text", { class: "soft", x: at, y: y - 7 }, text));
  }
  return nodes;
}

async function look() {
  try {
    const answer = await fetch("view.json", { cache: "no-store" });
    const told = await answer.json();
    if (!answer.ok) throw new Error(told.error || answer.statusText);
    show(told);
  } catch (error) {
    find("life").textContent = `what is shown is old: ${error.message}`;
    find("life").className = "badge gone";
  }
  setTimeout(look, EVERY_MS);
}

look();
