// The document, what all parts share, and the chart.
"use strict";

const D = JSON.parse(document.getElementById("data").textContent);
const $$ = (id) => document.getElementById(id);
const state = {
  dataset: 0, hidden: new Set(), figure: 0, x: "bpp", y: "psnr_db", xLog: true, yLog: false, fingerprints: {},
  cursor: null, a: null, b: null, image: 0, mode: "slide", view: "picture", pair: "AB", shown: "A", gain: 8, split: 0.5,
  zoom: null, cx: 0.5, cy: 0.5, match: true, table: "points", allColumns: false, sort: { points: null, images: null },
};
const set = () => D.datasets[state.dataset];
const point = (index) => set().points[index];
const codecOf = (p) => D.codecs[p.codec];
const named = (p) => `${codecOf(p).title} ${p.point}`;

/** An element with attributes and children; text is never read as HTML. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const say = (text) => { $$("live").textContent = text; };

/** A number as the tables of hfdbench print it. */
function shownNumber(column, value) {
  if (value === null || value === undefined) return "–";
  const decimals = D.metrics[column]?.decimals ?? null;
  if (decimals !== null) return value.toFixed(decimals);
  if (Number.isInteger(value)) return value.toLocaleString("en").replaceAll(",", "\u202f");
  return Math.abs(value) >= 1000 ? value.toFixed(0) : Number(value.toPrecision(3)).toString();
}

function press(group, attribute, value) {
  for (const button of $$(group).querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset[attribute] === String(value)));
  }
}

function fill(select, options, value) {
  select.replaceChildren(...options.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value) }, text)));
}

// ---- light and dark

const THEMES = ["auto", "light", "dark"];
const system = matchMedia("(prefers-color-scheme: dark)");
let theme = "auto";
try { theme = localStorage.getItem("hfdbench-theme") || "auto"; } catch { /* a browser may refuse storage to files */ }

const isDark = () => document.documentElement.dataset.theme === "dark";

function applyTheme() {
  document.documentElement.dataset.theme = theme === "auto" ? (system.matches ? "dark" : "light") : theme;
  $$("theme").replaceChildren(h("span", { class: "wide" }, "Theme: "), theme);
  $$("theme").setAttribute("aria-label", `Theme: ${theme}`);
}
applyTheme();
system.addEventListener("change", () => { applyTheme(); repaint(); });
$$("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  try { localStorage.setItem("hfdbench-theme", theme); } catch { /* kept for this visit */ }
  applyTheme();
  repaint();
});

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Relative luminance (WCAG 2.2) of "#rrggbb". */
function luminance(hex) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16) / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** The codec's colour, mixed with white as far as a dark page needs for a contrast of 3.5. */
function inkOf(codec) {
  let colour = D.codecs[codec].colour;
  if (!isDark()) return colour;
  const paper = luminance(css("--paper"));
  for (let mix = 0; mix <= 1; mix += 0.05) {
    const mixed = "#" + [1, 3, 5].map((i) => {
      const value = parseInt(D.codecs[codec].colour.slice(i, i + 2), 16);
      return Math.round(value + (255 - value) * mix).toString(16).padStart(2, "0");
    }).join("");
    colour = mixed;
    if ((luminance(mixed) + 0.05) / (paper + 0.05) >= 3.5) break;
  }
  return colour;
}

// ---- what is drawn

/** Only values of one fingerprint share an axis: those of `identity(column)`, a text of every point. */
const identity = (column) => D.identities[column];
const fingerprint = (p, column) => (identity(column) ? p.ids[identity(column)] : null);
const identities = () => [...new Set([state.y, state.x].map(identity).filter(Boolean))];
const positive = (value, log) => Number.isFinite(value) && (!log || value > 0);

/** Whether a logarithmic axis is one of 1 - value, as for a metric that ends at 1. */
const folded = (column, log) => log && D.metrics[column].top === 1;
const placed = (column, log, value) => (folded(column, log) ? 1 - value : value);
const atX = (value) => placed(state.x, state.xLog, value);
const atY = (value) => placed(state.y, state.yLog, value);

/** Indices of the points of a codec that the chart shows, by x: trials that succeeded, of the lowest seed. */
function curve(codec) {
  const all = set().points.map((p, i) => i).filter((i) => point(i).codec === codec && point(i).status === "ok");
  const first = all.filter((i) => all.every((j) => point(j).point !== point(i).point || point(j).seed >= point(i).seed));
  return first
    .filter((i) => positive(atX(point(i).values[state.x]), state.xLog) && positive(atY(point(i).values[state.y]), state.yLog))
    .filter((i) => identities().every((name) => point(i).ids[name] === state.fingerprints[name]))
    .sort((i, j) => point(i).values[state.x] - point(j).values[state.x]);
}

const codecs = () => Object.keys(D.codecs).filter((codec) => set().points.some((p) => p.codec === codec));
const drawn = () => codecs().filter((codec) => !state.hidden.has(codec)).map((codec) => [codec, curve(codec)]).filter(([, some]) => some.length);

function axisTitle(column) {
  const metric = D.metrics[column];
  let title = metric.title === column && metric.unit && metric.unit !== "1" ? `${column} (${metric.unit})` : metric.title;
  const labelled = set().points.find((p) => p.fid_label && p.ids.fid_id === state.fingerprints.fid_id);
  if (identity(column) === "fid_id" && labelled) title += labelled.fid_label.replace(/^FID/, "");
  return title;
}
const arrow = (column) => ({ lower: " ↓", higher: " ↑" })[D.metrics[column].direction] || "";

/** Tick values that read well on a logarithmic axis, from low to high. */
function logTicks(low, high) {
  const found = [];
  if (high / low < 4) {
    const raw = (high - low) / 6, base = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * base).find((s) => s >= raw);
    for (let v = Math.ceil(low / step) * step; v <= high; v += step) found.push(Number(v.toPrecision(6)));
    return found;
  }
  const steps = high / low < 300 ? [1, 2, 5] : [1];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) for (const m of steps) found.push(Number(`${m}e${e}`));
  return found;
}

const tickText = (column, ticks) => ticks.map((v) => String(D.metrics[column].top === 1 ? Number((1 - v).toPrecision(8)) : v));

function axis(column, log, values, extra) {
  const common = {
    title: { text: axisTitle(column) + extra, font: { size: 14 }, standoff: 12 }, type: log ? "log" : "linear", gridcolor: css("--line"),
    linecolor: css("--strong"), tickcolor: css("--strong"), zeroline: false, ticks: "outside", ticklen: 5, automargin: true, showline: true,
  };
  if (!log || !values.length) return common;
  const low = Math.min(...values), high = Math.max(...values);
  const ticks = logTicks(low / 1.3, high * 1.3);
  return { ...common, tickvals: ticks, ticktext: tickText(column, ticks), autorange: folded(column, log) ? "reversed" : true };
}

const phone = () => matchMedia("(max-width: 760px)").matches;
const touch = matchMedia("(pointer: coarse)").matches;
let traced = []; // [codec, indices] of the traces with points, in their order
let retick = false;

function traces() {
  traced = drawn();
  const bands = $$("bands").checked ? traced.flatMap(([codec, some]) => band(codec, some)) : [];
  const lines = traced.map(([codec, some]) => {
    const c = D.codecs[codec], colour = inkOf(codec);
    return {
      type: "scatter", mode: "lines+markers", name: escape_(c.title), customdata: some, x: some.map((i) => atX(point(i).values[state.x])), y: some.map((i) => atY(point(i).values[state.y])),
      line: { color: colour, width: 1.3 * c.width, dash: c.dash }, marker: { color: colour, symbol: c.symbol + (c.hollow ? "-open" : ""), size: c.symbol === "star" ? 12 : 9 },
      error_y: whiskers(some.map((i) => [point(i), state.y, atY])), error_x: whiskers(some.map((i) => [point(i), state.x, atX])),
      text: some.map((i) => hover(point(i))), hovertemplate: "%{text}<extra></extra>", hoverlabel: { align: "left" },
    };
  });
  const chosen = [["A", state.a], ["B", state.b]].filter(([, i]) => i !== null && traced.some(([, some]) => some.includes(i)));
  const rings = {
    type: "scatter", mode: "markers+text", hoverinfo: "skip", x: chosen.map(([, i]) => atX(point(i).values[state.x])), y: chosen.map(([, i]) => atY(point(i).values[state.y])),
    text: chosen.map(([slot]) => `<b>${slot}</b>`), textposition: chosen.map(([, i]) => (chosen.some(([, j]) => atY(point(j).values[state.y]) < atY(point(i).values[state.y])) ? "top right" : "bottom left")), textfont: { size: 14, color: css("--ink") },
    marker: { symbol: "circle-open", size: 17, line: { width: 2 }, color: css("--ink") },
  };
  return [...bands, ...lines, rings];
}

/** From the least to the greatest of the seeds, where there are several. */
function whiskers(some) {
  const ends = some.map(([p, column, at]) => {
    const own = p.seeds.map((seed) => at(seed.values[column])).filter(Number.isFinite), mean = at(p.values[column]);
    return new Set(own).size > 1 ? [Math.max(...own) - mean, mean - Math.min(...own)] : [0, 0];
  });
  const [array, arrayminus] = [0, 1].map((end) => ends.map((pair) => Math.max(0, pair[end])));
  return { type: "data", symmetric: false, array, arrayminus, thickness: 1.2, width: 4, visible: ends.flat().some((v) => v > 0) };
}

function band(codec, some) {
  const known = some.filter((i) => point(i).intervals[state.y] && point(i).intervals[state.y].every((v) => positive(atY(v), state.yLog)));
  if (known.length < 2) return [];
  const x = known.map((i) => atX(point(i).values[state.x])), [low, high] = [0, 1].map((end) => known.map((i) => atY(point(i).intervals[state.y][end])));
  return [{ type: "scatter", mode: "lines", hoverinfo: "skip", x: [...x, ...x.slice().reverse()], y: [...low, ...high.slice().reverse()], fill: "toself", fillcolor: inkOf(codec) + "22", line: { width: 0 } }];
}

function hover(p) {
  const line = (column) => `${D.metrics[column].name} ${shownNumber(column, p.values[column])}${interval(p, column)}`;
  const own = [...new Set([state.x, state.y, "bpp", "psnr_db", "fid"])].filter((column) => p.values[column] !== undefined);
  return `<b>${escape_(named(p))}</b><br>${own.map(line).join("<br>")}${p.seeds.length ? `<br><i>mean of ${p.seeds.length} seeds, whiskers over all</i>` : ""}${p.pictures ? "" : "<br><i>no pictures in this file</i>"}`;
}
const escape_ = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
const interval = (p, column) => (p.intervals[column] ? ` [${p.intervals[column].map((v) => shownNumber(column, v)).join(", ")}]` : "");

function layout() {
  const all = traced.flatMap(([, some]) => some), small = phone();
  return {
    font: { family: getComputedStyle(document.body).fontFamily, size: small ? 12 : 13, color: css("--soft") }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: small ? 52 : 72, r: 14, t: 34, b: small ? 50 : 62 }, showlegend: false, hovermode: "closest", dragmode: touch ? false : "zoom", uirevision: [state.dataset, state.x, state.y, state.xLog, state.yLog].join(),
    hoverlabel: { bgcolor: css("--raised"), bordercolor: css("--strong"), font: { color: css("--ink"), size: 13 } },
    xaxis: axis(state.x, state.xLog, all.map((i) => atX(point(i).values[state.x])), ""),
    yaxis: axis(state.y, state.yLog, all.map((i) => atY(point(i).values[state.y])), arrow(state.y)),
    modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--strong"), activecolor: css("--accent") },
  };
}

function drawChart() {
  const series = traces();
  Plotly.react("chart", series, layout(), {
    responsive: true, displaylogo: false, scrollZoom: false, showTips: false, displayModeBar: true,
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]], // none that would send the chart away
    toImageButtonOptions: { format: "svg", filename: `hfdbench-${set().id}-${state.y}` },
  });
  $$("chart").querySelector(".modebar")?.setAttribute("aria-label", "Tools of the chart");
  const note = set().points.find((p) => p.ids.fid_id === state.fingerprints.fid_id && p.values.fid_patches);
  const few = note && note.values.fid_patches < D.enough_patches, drawnFID = [state.x, state.y].includes("fid");
  const figure = D.figures[state.figure];
  $$("chart-note").textContent = [
    figure ? figure.note : "", traced.length ? "" : "No point has both values.",
    drawnFID && note ? `${note.values.fid_patches} patches${few ? ": FID is biased upwards, compare it only within this page" : ""}.` : "",
    ...identities().map((name) => `Fingerprint ${state.fingerprints[name]}.`),
  ].filter(Boolean).join(" ");
  const columns = ["codec", "point", state.x, state.y];
  $$("chart-table").replaceChildren(h("table", {},
    h("caption", { class: "visually-hidden" }, `${axisTitle(state.y)} against ${axisTitle(state.x)}, ${set().title}`),
    h("thead", {}, h("tr", {}, ...columns.map((c, i) => h("th", { scope: "col", class: i < 2 ? "text" : null }, h("span", {}, i < 2 ? c : axisTitle(c)))))),
    h("tbody", {}, ...traced.flatMap(([, some]) => some.map((i) => h("tr", {},
      h("th", { scope: "row" }, codecOf(point(i)).title), h("td", { class: "text" }, point(i).point),
      ...[state.x, state.y].map((c) => h("td", {}, shownNumber(c, point(i).values[c]) + interval(point(i), c)))))))));
}

/** The shape of a codec's curve, as a small picture. */
function glyph(codec) {
  const c = D.codecs[codec], colour = inkOf(codec);
  const star = Array.from({ length: 10 }, (_, k) => [14 + (k % 2 ? 2.3 : 5.8) * Math.sin(k * Math.PI / 5), 8 - (k % 2 ? 2.3 : 5.8) * Math.cos(k * Math.PI / 5)]);
  const round = (n, turn) => Array.from({ length: n }, (_, k) => [14 + 4.6 * Math.sin(2 * Math.PI * (k + turn) / n), 8 - 4.6 * Math.cos(2 * Math.PI * (k + turn) / n)]);
  const cross = [[-1.6, -4.4], [1.6, -4.4], [1.6, -1.6], [4.4, -1.6], [4.4, 1.6], [1.6, 1.6], [1.6, 4.4], [-1.6, 4.4], [-1.6, 1.6], [-4.4, 1.6], [-4.4, -1.6], [-1.6, -1.6]];
  const shapes = {
    circle: round(24, 0), square: round(4, 0.5), diamond: round(4, 0), "diamond-tall": [[14, 2.5], [17.2, 8], [14, 13.5], [10.8, 8]], "triangle-up": round(3, 0), "triangle-down": round(3, 0.5),
    "triangle-left": round(3, 0.75), pentagon: round(5, 0), hexagon: round(6, 0), star, cross: cross.map(([x, y]) => [14 + x, 8 + y]), x: cross.map(([x, y]) => [14 + (x - y) * 0.71, 8 + (x + y) * 0.71]),
  };
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
  svg.setAttribute("width", 28);
  svg.setAttribute("height", 16);
  svg.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(ns, "line"), mark = document.createElementNS(ns, "polygon");
  for (const [key, value] of Object.entries({ x1: 0, x2: 28, y1: 8, y2: 8, stroke: colour, "stroke-width": 1.3 * c.width, "stroke-dasharray": c.dash === "solid" ? "none" : c.dash.replaceAll("px", "") })) line.setAttribute(key, value);
  mark.setAttribute("points", shapes[c.symbol].map((xy) => xy.map((v) => v.toFixed(1)).join(",")).join(" "));
  mark.setAttribute("fill", c.hollow ? "none" : colour);
  mark.setAttribute("stroke", c.hollow ? colour : "none");
  svg.append(line, mark);
  return svg;
}

function drawChips() {
  $$("chips").replaceChildren(...codecs().map((codec) => h("button", {
    type: "button", "aria-pressed": String(!state.hidden.has(codec)), title: D.codecs[codec].source || D.codecs[codec].settings || null, "data-codec": codec,
    onclick: (event) => {
      if (!state.hidden.delete(codec)) state.hidden.add(codec);
      event.currentTarget.setAttribute("aria-pressed", String(!state.hidden.has(codec)));
      drawChart();
      drawTable();
    },
  }, glyph(codec), D.codecs[codec].title)));
}

/** Fingerprints of a kind, the most frequent first. */
function fingerprintsOf(name) {
  const all = set().points.map((p) => p.ids[name]).filter(Boolean), count = (id) => all.filter((other) => other === id).length;
  return [...new Set(all)].sort((i, j) => count(j) - count(i));
}

function drawControls() {
  const columns = Object.keys(D.metrics).filter((column) => set().points.some((p) => p.values[column] !== undefined));
  for (const name of new Set(Object.values(D.identities))) {
    const ids = fingerprintsOf(name);
    if (!ids.includes(state.fingerprints[name])) state.fingerprints[name] = ids[0] ?? null;
  }
  const titled = columns.map((column) => [column, D.metrics[column].title]);
  fill($$("x"), titled, state.x);
  fill($$("y"), titled, state.y);
  $$("x-log").checked = state.xLog;
  $$("y-log").checked = state.yLog;
  const [name] = identities(), ids = fingerprintsOf(name);
  fill($$("fingerprint"), ids.map((id) => [id, id]), state.fingerprints[name]);
  $$("fingerprint-label").hidden = ids.length < 2;
  $$("bands-label").hidden = !set().points.some((p) => p.intervals[state.y]);
  $$("presets").replaceChildren(...usable().map((i) => h("button", { type: "button", "data-figure": i, "aria-pressed": String(i === state.figure), onclick: () => { choose(i); } }, short(D.figures[i]))));
}

const short = (figure) => [figure.x, figure.y].map((c) => D.metrics[c].name).map((name) => (name.includes("_") ? name : name[0].toUpperCase() + name.slice(1))).join(" – ");
const has = (column) => D.metrics[column] && set().points.some((p) => p.values[column] !== undefined);
const first = (i) => Number(D.figures[i].id !== "rate-fid");
const usable = () => D.figures.map((_, i) => i).sort((i, j) => first(i) - first(j)).filter((i) => has(D.figures[i].x) && has(D.figures[i].y) && [null, set().id].includes(D.figures[i].dataset));

function choose(index) {
  const figure = D.figures[index];
  Object.assign(state, { figure: index, x: figure.x, y: figure.y, xLog: figure.x_log, yLog: figure.y_log });
  drawControls();
  drawChart();
}

function wireChart() {
  for (const name of ["x", "y"]) {
    $$(name).addEventListener("change", (event) => { state[name] = event.target.value; state.figure = null; drawControls(); drawChart(); });
    $$(`${name}-log`).addEventListener("change", (event) => { state[`${name}Log`] = event.target.checked; state.figure = null; drawControls(); drawChart(); });
  }
  $$("fingerprint").addEventListener("change", (event) => { state.fingerprints[identities()[0]] = event.target.value; drawChart(); });
  $$("bands").addEventListener("change", drawChart);
  const chart = $$("chart");
  chart.on("plotly_click", (event) => {
    const index = event.points[0].customdata;
    if (index !== undefined) openPoint(index);
  });
  chart.on("plotly_relayout", (change) => {
    if (retick) return;
    const update = {};
    for (const [name, log] of [["xaxis", state.xLog], ["yaxis", state.yLog]]) {
      const low = change[`${name}.range[0]`], high = change[`${name}.range[1]`];
      if (!log || low === undefined) continue;
      const ticks = logTicks(10 ** Math.min(low, high), 10 ** Math.max(low, high));
      update[`${name}.tickvals`] = ticks;
      update[`${name}.ticktext`] = tickText(name === "xaxis" ? state.x : state.y, ticks);
    }
    if (!Object.keys(update).length) {
      if (change["xaxis.autorange"] || change["yaxis.autorange"]) drawChart();
      return;
    }
    retick = true;
    Plotly.relayout("chart", update).then(() => { retick = false; });
  });
  $$("chart-frame").addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.target !== $$("chart-frame") || !traced.length) return;
    if (event.key === "Enter" && state.cursor !== null) { event.preventDefault(); openPoint(state.cursor); return; }
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [across, along] = moves[event.key];
    let row = traced.findIndex(([, some]) => some.includes(state.cursor)), column;
    if (row < 0) { row = 0; column = 0; }
    else if (across) {
      const x = point(state.cursor).values[state.x];
      row = (row + across + traced.length) % traced.length;
      const gaps = traced[row][1].map((i) => Math.abs(point(i).values[state.x] - x));
      column = gaps.indexOf(Math.min(...gaps));
    } else column = Math.min(Math.max(traced[row][1].indexOf(state.cursor) + along, 0), traced[row][1].length - 1);
    state.cursor = traced[row][1][column];
    const p = point(state.cursor), curveNumber = chart.data.findIndex((t) => t.customdata && t.customdata.includes(state.cursor));
    Plotly.Fx.hover("chart", [{ curveNumber, pointNumber: column }]);
    say(`${named(p)}: ${[state.x, state.y].map((c) => `${D.metrics[c].name} ${shownNumber(c, p.values[c])}`).join(", ")}${p.pictures ? "" : ", no pictures"}`);
  });
}
