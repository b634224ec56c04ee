// Patches, tables, provenance, and the start of it all.

const PATCHES = 5; // on each side

function drawPatches() {
  const a = point(state.a), b = point(state.b), places = set().patches;
  const ranked = set().ranked, name = D.metrics[ranked]?.name ?? ranked;
  const ready = places && a.pull && b.pull && fingerprint(a, ranked) === fingerprint(b, ranked) && state.a !== state.b;
  $$("patches").hidden = !places;
  if (!places) return;
  if (!ready) {
    $$("patches-lead").textContent = "A and B have no features of one network to rank patches by.";
    $$("patches-body").replaceChildren();
    return;
  }
  const [ofA, ofB] = [a, b].map((p) => (p.seeds[0] ?? p).values[ranked]), gap = ofA - ofB; // the pulls are of the lowest seed
  const pulls = a.pull.map((value, i) => [value - b.pull[i], i]).sort((p, q) => q[0] - p[0]);
  $$("patches-lead").textContent = `${name} of A (${named(a)}) is ${shownNumber(ranked, ofA)}, of B (${named(b)}) ${shownNumber(ranked, ofB)}${[a, b].some((p) => p.seeds.length) ? ", each with its lowest seed" : ""}; the difference is ${signed(gap)}. `
    + `These of the ${places.image.length} patches pull most on it: each number is what the patch adds to ${name}(A) − ${name}(B).`;
  const list = (title, some) => h("div", {}, h("h3", {}, title), h("p", { class: "trio facts", "aria-hidden": "true" }, ...["Original", "A", "B"].map((text) => h("span", {}, text))), h("ol", {}, ...some.map(patchItem)));
  $$("patches-body").replaceChildren(h("div", { class: "patch-columns" },
    list("Speak for A", pulls.slice(-PATCHES).reverse().filter(([v]) => v < 0)), list("Speak for B", pulls.slice(0, PATCHES).filter(([v]) => v > 0))));
}

const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(3);

function patchItem([value, i]) {
  const places = set().patches, image = places.image[i], top = places.top[i], left = places.left[i];
  const { name, width, height } = set().images[image];
  const crop = point(state.a).fid_protocol === "whole" ? [0, 0, width, height] : [left, top, D.patch, D.patch];
  const open = () => {
    Object.assign(state, { image, view: "picture", mode: "slide", pair: "AB", cx: (crop[0] + crop[2] / 2) / width, cy: (crop[1] + crop[3] / 2) / height });
    drawButtons();
    chooseImage(image);
    show().then(() => { zoomTo(Math.min(canvas.clientWidth / crop[2], canvas.clientHeight / crop[3])); });
    $$("viewer").scrollIntoView();
    canvas.focus({ preventScroll: true });
  };
  return h("li", {}, h("button", { type: "button", class: "patch", onclick: open, "aria-label": `${name}, patch at ${left}, ${top}: ${signed(value)}; open` },
    trio(["o", state.a, state.b], image, crop), line(`${name} at ${left}, ${top}`, signed(value))));
}

function trio(sources, image, crop) {
  const box = h("span", { class: "trio" });
  box.append(...sources.map((source) => thumbnail(192, 192, source, image, crop)));
  return box;
}

function line(text, number) {
  return h("span", { class: "line" }, h("span", {}, text), h("span", { class: "facts" }, number));
}

// ---- tables

/** Columns and rows of the table shown; a cell is {value, text, node}, null values sort last. */
function pointTable() {
  const columns = state.allColumns ? Object.keys(D.metrics) : D.columns.filter((c) => D.metrics[c]);
  const rows = set().points.map((p, i) => [p, i]).filter(([p]) => !state.hidden.has(p.codec)).map(([p, i]) => [
    { value: codecOf(p).title, node: () => [h("button", { type: "button", class: "link", title: "Open its pictures", onclick: () => openPoint(i) }, swatch(p.codec), codecOf(p).title, mark(i))] },
    { value: p.point, text: p.point + (p.status === "ok" ? "" : ` † (${p.status})`) },
    ...columns.map((c) => ({ value: p.values[c] ?? null, text: shownNumber(c, p.values[c]), node: p.values[c] === undefined ? null : () => [h("button", {
      type: "button", class: "number", title: `${D.metrics[c].title}: ${p.values[c]}${interval(p, c)}`, onclick: () => provenance(i, c),
    }, shownNumber(c, p.values[c]))] })),
  ]);
  return { heads: ["codec", "point", ...columns], texts: 2, rows };
}
const swatch = (codec) => { const dot = h("span", { class: "swatch", "aria-hidden": "true" }); dot.style.background = inkOf(codec); return dot; };
const mark = (i) => (i === state.a ? " (A)" : i === state.b ? " (B)" : "");

function imageTable() {
  const columns = ["bpp", "psnr_db", "ms_ssim", "decode_s"], sides = [["A", state.a], ["B", state.b]].filter(([, i]) => i !== null);
  const rows = set().images.map((image, k) => [
    { value: image.name, node: k < set().pictures && state.a !== null ? () => [h("button", { type: "button", class: "link", onclick: () => { chooseImage(k); $$("viewer").scrollIntoView(); canvas.focus({ preventScroll: true }); } }, image.name)] : null },
    ...columns.flatMap((c) => sides.map(([, i]) => ({ value: point(i).crops[c][k], text: shownNumber(c, point(i).crops[c][k]) }))),
  ]);
  return { heads: ["image", ...columns.flatMap((c) => sides.map(([side]) => `${c} of ${side}`))], texts: 1, rows };
}

function sorted(table) {
  const order = state.sort[state.table];
  if (!order) return table.rows;
  const place = table.heads.indexOf(order.head);
  if (place < 0) return table.rows;
  return table.rows.slice().sort((r, q) => {
    const x = r[place].value, y = q[place].value;
    if (x === null || y === null) return (x === null) - (y === null);
    const way = typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true });
    return order.down ? -way : way;
  });
}

const currentTable = () => (state.table === "points" ? pointTable() : imageTable());

function drawTable() {
  press("tables", "table", state.table);
  $$("all-columns").parentElement.hidden = state.table !== "points";
  const table = currentTable(), order = state.sort[state.table];
  const head = (name, k) => {
    const direction = order && order.head === name ? (order.down ? "descending" : "ascending") : "none";
    const metric = D.metrics[name.split(" ")[0]];
    return h("th", { scope: "col", class: k < table.texts ? "text" : null, "aria-sort": direction, title: metric ? `${metric.title}. ${metric.meaning}` : null },
      h("button", { type: "button", "data-head": name, onclick: () => {
        state.sort[state.table] = { head: name, down: direction === "none" ? Boolean(metric && metric.direction === "higher") : direction === "ascending" };
        drawTable();
        $$("table").querySelector(`[data-head="${CSS.escape(name)}"]`).focus();
      } }, name));
  };
  const cell = (c, k) => h(k ? "td" : "th", { scope: k ? null : "row", class: k < table.texts ? "text" : null }, ...(c.node ? c.node() : [c.text ?? c.value]));
  $$("table").replaceChildren(h("table", {}, h("caption", { class: "visually-hidden" }, `${state.table === "points" ? "Points" : "Images of A and B"} of ${set().title}`),
    h("thead", {}, h("tr", {}, ...table.heads.map(head))), h("tbody", {}, ...sorted(table).map((row) => h("tr", {}, ...row.map(cell))))));
}

function saveCSV() {
  // A text that a spreadsheet would take for a formula begins with an apostrophe.
  const safe = (v) => (typeof v === "string" && /^\s*[=+\-@]/.test(v) ? `'${v}` : v);
  const quote = (v) => (v === null || v === undefined ? "" : /[",\r\n]/.test(safe(v)) ? `"${safe(v).replaceAll('"', '""')}"` : safe(v));
  const table = currentTable();
  const text = [table.heads, ...sorted(table).map((row) => row.map((c) => c.value))].map((row) => row.map(quote).join(",")).join("\n");
  const link = h("a", { href: URL.createObjectURL(new Blob([text + "\n"], { type: "text/csv" })), download: `hfdbench-${set().id}-${state.table}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// ---- provenance

function terms(entries, marked) {
  return h("dl", { class: marked ? "marked" : null }, ...entries.filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([key, value, hint]) => [
    h("dt", {}, key), h("dd", {}, typeof value === "object" && !(value instanceof Node) ? h("code", {}, JSON.stringify(value)) : value, hint ? h("span", { class: "hint" }, hint) : null)]));
}

/** What a number is, what it was made with and from: opens the dialog, the number asked for first. */
function provenance(index, column) {
  const p = point(index), c = codecOf(p), run = D.environments[p.environment];
  const number = (name) => {
    const metric = D.metrics[name], checked = metric.reference ? `Checked against: ${metric.reference}.` : "", source = metric.module ? `Computed by hfdbench ${metric.module}${metric.year ? `, proposed in ${metric.year}` : ""}. ` : "";
    const bounds = p.intervals[name] ? ` [${p.intervals[name].join(", ")}], 95 % over images${p.seeds.length ? " and seeds" : ""}` : "";
    const own = p.seeds.map((seed) => seed.values[name]), differ = new Set(own.filter((v) => v !== undefined)).size > 1;
    return [name, `${p.values[name]}${metric.unit && metric.unit !== "1" ? ` ${metric.unit}` : ""}${bounds}${differ ? `; by seed: ${own.map((v) => shownNumber(name, v)).join(", ")}` : ""}`, `${metric.meaning ? metric.meaning.replace(/^./, (f) => f.toUpperCase()) + ". " : ""}${source}${checked}`];
  };
  const names = Object.keys(D.metrics).filter((name) => p.values[name] !== undefined);
  $$("source-title").textContent = `${column}: ${c.title} ${p.point} on ${set().title}`;
  $$("source-body").replaceChildren(
    terms([number(column)], true),
    h("h3", {}, "Made with"),
    terms([["Source", c.source], ["Settings", c.settings], ["Paper", c.paper], ["Options of the point", p.options.options], ["Weights (sha256)", Object.keys(p.options.weights).length ? p.options.weights : null], ["Seed", p.seeds.length ? `${p.seeds.map((seed) => seed.seed).join(", ")}: numbers are means over them, pictures are of seed ${p.seed}` : String(p.seed)], ["Device", `${p.device}, ${run.cpu}, ${run.threads} threads, ${run.workers} workers`],
      ["Measured", run.started_utc], ["Commit", run.commit], ["Versions", Object.entries(run.versions ?? {}).map(([k, v]) => `${k} ${v}`).join(", ")]]),
    h("h3", {}, "Made from"),
    terms([["Trial", p.seeds.length ? p.seeds.map((seed) => seed.name).join(", ") : p.name], ["Dataset", `${set().title}, sha256 ${p.keys.dataset_sha256}`], ["Streams", p.keys.stream_key], ["Features", p.keys.inception ? `Inception weights ${p.keys.inception}…` : null], ["Fingerprint", identity(column) ? fingerprint(p, column) : null], ["Note", p.note],
      ["Pictures", p.pictures ? (p.differs ? `${p.differs} differ from those measured` : "decoded again; pixels have the sha256 of those measured") : p.reason || set().no_pictures]]),
    h("details", {}, h("summary", {}, "Every number of this point"), terms(names.map(number), true)));
  $$("source").showModal();
  $$("source").scrollTop = 0;
}

// ---- what frames it

function drawFrame() {
  const s = set(), count = new Set(s.points.map((p) => p.codec)).size, images = s.images.length;
  document.title = `hfdbench: ${s.title}`;
  $$("page-title").textContent = s.title;
  const patches = s.points.find((p) => p.values.fid_patches);
  $$("summary").textContent = [`${count} codec${count > 1 ? "s" : ""}`, `${s.points.length} points`, `${images} image${images > 1 ? "s" : ""}`, patches ? `${patches.values.fid_patches} patches` : ""].filter(Boolean).join(" · ")
    + `. Measured with hfdbench ${[...new Set(D.environments.map((e) => e.versions?.hfdbench).filter(Boolean))].join(", ")}; every number tells where it comes from.`;
  const troubles = s.points.filter((p) => p.status !== "ok" || p.failed.length || p.note || p.reason);
  $$("left-out").replaceChildren(...(troubles.length ? [h("details", {}, h("summary", {}, `Notes on ${troubles.length} of ${s.points.length} points`), h("ul", {}, ...troubles.map((p) => h("li", {},
    `${named(p)}: ${[p.status === "ok" ? "" : p.status, p.note, ...p.failed, p.reason ? `no pictures: ${p.reason}` : ""].filter(Boolean).join("; ")}`))))] : []));
  $$("about-body").replaceChildren(terms([
    ["Dataset", `${s.title}. ${s.note}`], ["Licence of the pictures", s.licence || "not stated by the dataset's card"],
    ["Data", D.commit ? `measured at commit ${D.commit}` : null], ["Written", `${D.written_utc} by hfdbench ${D.version}`],
    ["Software in this file", `plotly.js (MIT), as the Python package plotly ${D.plotly} carries it`], ["Network", "none: the file forbids itself every connection"]]));
}

/** After the theme changed: what carries colours of its own. */
function repaint() {
  drawChips();
  drawChart();
  drawTable();
  if (state.a !== null) show();
}

function openDataset(index) {
  Object.assign(state, { dataset: index, hidden: new Set(), image: 0, cursor: null, zoom: null });
  drawFrame();
  firstPair();
  if (usable().length) choose(usable()[0]);
  else { drawControls(); drawChart(); }
  drawChips();
  drawTable();
  drawViewer();
}

const hfdbench = {
  ready() {
    fill($$("dataset"), D.datasets.map((d, i) => [i, d.title]), 0);
    $$("dataset-label").hidden = D.datasets.length < 2;
    $$("dataset").addEventListener("change", (event) => openDataset(Number(event.target.value)));
    $$("tables").addEventListener("click", (event) => { if (event.target.dataset.table) { state.table = event.target.dataset.table; drawTable(); } });
    $$("all-columns").addEventListener("change", (event) => { state.allColumns = event.target.checked; drawTable(); });
    $$("csv").addEventListener("click", saveCSV);
    openDataset(0);
    wireChart();
    wireViewer();
    document.documentElement.dataset.ready = "yes";
  },
};
