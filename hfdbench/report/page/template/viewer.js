// The pictures: original and two decodings, by sliding, flipping or side by side; differences; spectra; zoom.

const CACHE = 60;
const bitmaps = new Map(); // "source/image" -> Promise<ImageBitmap>, the oldest first
const surfaces = new Map(); // derived canvases, likewise
const sourceOf = (slot) => (slot === "O" ? "o" : slot === "A" ? state.a : state.b);
const canvas = $$("canvas");
const context = canvas.getContext("2d");

function remember(map, key, make) {
  const value = map.get(key) ?? make();
  map.delete(key);
  map.set(key, value);
  if (map.size > CACHE) map.delete(map.keys().next().value);
  return value;
}

const stored = (source, image) => document.getElementById(`p-${state.dataset}-${source}-${image}`);

function file(source, image) {
  const text = atob(stored(source, image).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Blob([bytes], { type: "image/webp" });
}

/** The picture of a source ("o": original, else the index of a point), or null where the file has none. */
function bitmap(source, image) {
  if (source === null || !stored(source, image)) return Promise.resolve(null);
  return remember(bitmaps, `${state.dataset}/${source}/${image}`, () => createImageBitmap(file(source, image)));
}

function surface(width, height) {
  const made = document.createElement("canvas");
  made.width = width;
  made.height = height;
  return made;
}

function pixels(picture) {
  const made = surface(picture.width, picture.height), to = made.getContext("2d", { willReadFrequently: true });
  to.drawImage(picture, 0, 0);
  return to.getImageData(0, 0, picture.width, picture.height);
}

/** |picture - original|, amplified. */
function difference(picture, original, gain) {
  const a = pixels(picture), b = pixels(original), made = surface(a.width, a.height);
  for (let i = 0; i < a.data.length; i += 4) {
    for (let k = i; k < i + 3; k++) a.data[k] = Math.min(255, Math.abs(a.data[k] - b.data[k]) * gain);
  }
  made.getContext("2d").putImageData(a, 0, 0);
  return made;
}

/** In place, of n = 2^k complex numbers (Cooley and Tukey 1965). */
function fft(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) { [re[i], re[j]] = [re[j], re[i]]; [im[i], im[j]] = [im[j], im[i]]; }
  }
  for (let size = 2; size <= n; size *= 2) {
    const half = size / 2;
    for (let k = 0; k < half; k++) {
      const c = Math.cos((-2 * Math.PI * k) / size), s = Math.sin((-2 * Math.PI * k) / size);
      for (let i = k; i < n; i += size) {
        const j = i + half, x = re[j] * c - im[j] * s, y = re[j] * s + im[j] * c;
        re[j] = re[i] - x; im[j] = im[i] - y; re[i] += x; im[i] += y;
      }
    }
  }
}

/** Power spectrum of the luma: a canvas, grey by decibels (-10 to 70), and its radial mean in dB by cycles per pixel. */
function spectrum(picture) {
  const n = 2 ** Math.floor(Math.log2(Math.min(picture.width, picture.height, 512)));
  const all = pixels(picture), left = (all.width - n) >> 1, top = (all.height - n) >> 1;
  const rows = [], window_ = Float64Array.from({ length: n }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / n));
  let mean = 0;
  const luma = (x, y) => { const i = 4 * ((top + y) * all.width + left + x); return 0.299 * all.data[i] + 0.587 * all.data[i + 1] + 0.114 * all.data[i + 2]; };
  for (let y = 0; y < n; y++) for (let x = 0; x < n; x++) mean += luma(x, y) / (n * n);
  for (let y = 0; y < n; y++) {
    const re = new Float64Array(n), im = new Float64Array(n);
    for (let x = 0; x < n; x++) re[x] = (luma(x, y) - mean) * window_[x] * window_[y];
    fft(re, im);
    rows.push([re, im]);
  }
  const made = surface(n, n), to = made.getContext("2d"), shown = to.createImageData(n, n);
  const sums = new Float64Array(n / 2), counts = new Float64Array(n / 2);
  for (let x = 0; x < n; x++) {
    const re = Float64Array.from(rows, (row) => row[0][x]), im = Float64Array.from(rows, (row) => row[1][x]);
    fft(re, im);
    for (let y = 0; y < n; y++) {
      const power = (re[y] ** 2 + im[y] ** 2) / (n * n), fx = (x + n / 2) % n, fy = (y + n / 2) % n;
      const db = 10 * Math.log10(power + 1e-9), i = 4 * (fy * n + fx), radius = Math.round(Math.hypot(fx - n / 2, fy - n / 2));
      shown.data[i] = shown.data[i + 1] = shown.data[i + 2] = Math.max(0, Math.min(255, ((db + 10) / 80) * 255));
      shown.data[i + 3] = 255;
      if (radius < n / 2) { sums[radius] += power; counts[radius]++; }
    }
  }
  to.putImageData(shown, 0, 0);
  return { canvas: made, frequency: Array.from(sums, (_, i) => i / n), db: Array.from(sums, (s, i) => 10 * Math.log10(s / counts[i] + 1e-9)) };
}

/** What a slot shows in the present view, or null; the original, which differs from nothing, is itself. */
async function drawable(slot) {
  const source = sourceOf(slot), picture = await bitmap(source, state.image);
  if (!picture || state.view === "picture" || (state.view === "difference" && slot === "O")) return picture;
  const key = `${state.dataset}/${source}/${state.image}/${state.view}`;
  if (state.view === "spectrum") return remember(surfaces, key, () => spectrum(picture)).canvas;
  const original = await bitmap("o", state.image);
  return original && remember(surfaces, `${key}/${state.gain}`, () => difference(picture, original, state.gain));
}

// ---- the stage

const slots = () => (state.mode === "side" ? ["O", "A", "B"] : state.mode === "flip" ? [state.shown] : [...state.pair]);
let scene = { items: [null], slots: [], width: 1, height: 1 };
let turn = 0;

/** Fetch what the state asks for, then paint it. */
async function show() {
  const mine = ++turn, wanted = slots();
  const items = await Promise.all(wanted.map(drawable));
  if (mine !== turn) return;
  const first = items.find(Boolean);
  scene = { items, slots: wanted, width: first ? first.width : 1, height: first ? first.height : 1 };
  paint();
  describe();
  if (state.view === "spectrum") radial();
}

function panels() {
  const width = canvas.clientWidth, height = canvas.clientHeight, n = scene.items.length;
  if (state.mode !== "side") return scene.items.map(() => ({ x: 0, y: 0, width, height }));
  if (width < 640) return scene.items.map((_, i) => ({ x: 0, y: (i * height) / n, width, height: height / n }));
  return scene.items.map((_, i) => ({ x: (i * width) / n, y: 0, width: width / n, height }));
}

/** Scale at which all is in view, in CSS pixels per image pixel. */
function fit() {
  const [panel] = panels();
  return Math.min(panel.width / scene.width, panel.height / scene.height);
}
const scale = () => state.zoom ?? fit();
const isZoomed = () => scale() > fit() * 1.001;

/** Where the image's top left corner lies in a panel: centred, or panned within its edges. */
function origin(panel) {
  const s = scale();
  const place = (size, room, centre) => (size * s <= room ? (room - size * s) / 2 : Math.min(0, Math.max(room - size * s, room / 2 - centre * size * s)));
  return [panel.x + place(scene.width, panel.width, state.cx), panel.y + place(scene.height, panel.height, state.cy)];
}

function paint() {
  const dpr = window.devicePixelRatio || 1, width = Math.round(canvas.clientWidth * dpr), height = Math.round(canvas.clientHeight * dpr);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, width, height);
  const s = scale();
  context.imageSmoothingEnabled = s * dpr < 1.5;
  context.imageSmoothingQuality = "high";
  const divide = canvas.clientWidth * state.split;
  panels().forEach((panel, i) => {
    if (!scene.items[i]) return;
    const [left, top] = origin(panel);
    context.save();
    context.beginPath();
    if (state.mode === "slide") context.rect((i ? divide : 0) * dpr, 0, (i ? canvas.clientWidth - divide : divide) * dpr, height);
    else context.rect(Math.round(panel.x * dpr) + (i ? dpr : 0), Math.round(panel.y * dpr) + (i ? dpr : 0), panel.width * dpr, panel.height * dpr);
    context.clip();
    context.drawImage(scene.items[i], Math.round(left * dpr), Math.round(top * dpr), Math.round(scene.width * s * dpr), Math.round(scene.height * s * dpr));
    context.restore();
  });
  canvas.classList.toggle("zoomed", isZoomed());
  const divider = $$("divider");
  divider.hidden = state.mode !== "slide";
  divider.style.left = `${100 * state.split}%`;
  divider.setAttribute("aria-valuenow", Math.round(100 * state.split));
  divider.setAttribute("aria-valuetext", `${Math.round(100 * state.split)} % ${slotName(state.pair[0])}, the rest ${slotName(state.pair[1])}`);
  $$("zoom-value").textContent = scene.items.some(Boolean) ? `${Math.round(100 * s)} %` : "";
}

const slotName = (slot) => (slot === "O" ? "original" : slot);

function caption(slot, image = state.image) {
  const index = sourceOf(slot);
  if (slot === "O") return "Original";
  const p = point(index), own = (column) => p.crops[column][image];
  if (!p.pictures) return `${slot}  ${named(p)}: no pictures`;
  const facts = [own("bpp") === null ? "" : `${own("bpp").toFixed(3)} bpp`, own("psnr_db") === null ? "" : `${own("psnr_db").toFixed(2)} dB`].filter(Boolean);
  return [`${slot}  ${named(p)}`, ...facts].join(" · ");
}

function describe() {
  $$("labels").replaceChildren(...panels().map((panel, i) => {
    const text = caption(scene.slots[i]), label = h("span", {}, phone() ? text.replace(" · ", "\n") : text);
    const last = state.mode === "slide" && i === 1;
    label.style.top = `${panel.y + 10}px`;
    label.style[last ? "right" : "left"] = `${last ? 10 : panel.x + 10}px`;
    if (state.mode !== "slide") label.style.maxWidth = `${panel.width - 20}px`;
    return label;
  }));
  const image = set().images[state.image];
  canvas.setAttribute("aria-label", `${image.name}, ${state.view}, ${{ slide: "sliding", flip: "flipping", side: "side by side" }[state.mode]}: ${scene.slots.map((slot) => caption(slot)).join("; ")}`);
  $$("image-name").textContent = `${image.name}, ${image.width} × ${image.height}, ${state.image + 1} of ${set().pictures}`;
}

async function radial() {
  const wanted = [["O", css("--soft")], ["A", state.a === null ? "" : inkOf(point(state.a).codec)], ["B", state.b === null ? "" : inkOf(point(state.b).codec)]];
  const lines = [];
  for (const [slot, colour] of wanted) {
    const picture = await bitmap(sourceOf(slot), state.image);
    if (!picture) continue;
    const s = remember(surfaces, `${state.dataset}/${sourceOf(slot)}/${state.image}/spectrum`, () => spectrum(picture));
    lines.push({ type: "scatter", mode: "lines", name: slot === "O" ? "Original" : `${slot}: ${named(point(sourceOf(slot)))}`, x: s.frequency.slice(1), y: s.db.slice(1), line: { color: colour, width: 2, dash: slot === "B" ? "dash" : "solid" } });
  }
  const plain = { gridcolor: css("--line"), linecolor: css("--strong"), zeroline: false, showline: true };
  Plotly.react("radial", lines, {
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: css("--soft") }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", margin: { l: 60, r: 12, t: 8, b: 44 },
    legend: { x: 1, xanchor: "right", y: 1 }, dragmode: false, hovermode: "x unified", hoverlabel: { bgcolor: css("--raised"), font: { color: css("--ink") } },
    xaxis: { ...plain, title: { text: "Spatial frequency (cycles per pixel)" } }, yaxis: { ...plain, title: { text: "Power (dB)" } },
  }, { responsive: true, displayModeBar: false });
}

// ---- choosing what is compared

const pictured = (codec) => set().points.map((p, i) => i).filter((i) => point(i).pictures && (codec === undefined || point(i).codec === codec));
const rate = (index) => point(index).values.bpp;

function nearest(indices, bpp) {
  return indices.reduce((best, i) => (best === null || Math.abs(Math.log(rate(i) / bpp)) < Math.abs(Math.log(rate(best) / bpp)) ? i : best), null);
}

/** A and B of a fresh page: codecs that differ in kind, at rates as equal as can be and near the middle. */
function firstPair() {
  const order = ["diffusion", "flow", "gan", "autoencoder", "classical"];
  const some = [...new Set(pictured().map((i) => point(i).codec))].sort((i, j) => order.indexOf(D.codecs[i].kind) - order.indexOf(D.codecs[j].kind));
  state.a = state.b = null;
  if (!some.length) return;
  const rights = pictured(some[0]), middle = rights.reduce((sum, i) => sum + Math.log(rate(i)), 0) / rights.length;
  let least = Infinity;
  for (const b of rights) for (const a of some.length > 1 ? pictured(some.at(-1)) : rights) {
    const cost = 4 * Math.abs(Math.log(rate(a) / rate(b))) + Math.abs(Math.log(rate(b)) - middle) + (a === b && rights.length > 1 ? 100 : 0);
    if (cost < least) { least = cost; state.a = a; state.b = b; }
  }
}

function matchB() {
  if (state.match && state.a !== null) state.b = nearest(pictured(point(state.b).codec), rate(state.a)) ?? state.b;
}

function drawSides() {
  const some = codecs().filter((codec) => pictured(codec).length);
  for (const [side, index] of [["a", state.a], ["b", state.b]]) {
    const p = point(index), column = has("fid") ? "fid" : "ms_ssim";
    fill($$(`${side}-codec`), some.map((codec) => [codec, D.codecs[codec].title]), p.codec);
    fill($$(`${side}-point`), pictured(p.codec).sort((i, j) => rate(i) - rate(j)).map((i) => [i, `${point(i).point}: ${rate(i).toFixed(3)} bpp`]), index);
    $$(`${side}-facts`).textContent = ["bpp", "psnr_db", column].filter((c) => p.values[c] !== undefined).map((c) => `${D.metrics[c].name} ${shownNumber(c, p.values[c])}`).join(", ") + ", whole set";
  }
  const share = 100 * (rate(state.b) / rate(state.a) - 1);
  $$("match-facts").textContent = Math.abs(share) < 0.05 ? "B spends as many bits" : `B spends ${Math.abs(share).toFixed(1)} % ${share > 0 ? "more" : "fewer"} bits`;
  $$("match").checked = state.match;
  const whole = [state.a, state.b].filter((i) => point(i).differs).map((i) => `${named(point(i))}: ${point(i).differs} pictures, decoded again here, differ from those measured (sha256 of their pixels).`);
  const loss = set().loss_db === null ? "" : `, ${set().loss_db.toFixed(1)} dB from the originals they show`;
  const clean = pictured().every((i) => !point(i).differs) ? " All decodings shown were made again from the stored streams, and their pixels have the sha256 of those measured." : "";
  $$("pictures-note").textContent = `Pictures are embedded as WebP of quality ${D.quality}${loss}: differences and spectra include that loss.${clean} ${whole.join(" ")}`;
}

function drawButtons() {
  press("modes", "mode", state.mode);
  press("views", "view", state.view);
  press("pairs", "pair", state.pair);
  press("shown", "shown", state.shown);
  $$("pairs").hidden = state.mode !== "slide";
  $$("shown").hidden = state.mode !== "flip";
  $$("gain-label").hidden = state.view !== "difference";
  $$("gain-value").textContent = `${state.gain}×`;
  $$("radial-frame").hidden = state.view !== "spectrum";
}

/** Everything of the viewer after A, B or the dataset changed. */
function drawViewer() {
  const none = state.a === null;
  $$("viewer-body").hidden = none;
  $$("viewer-missing").hidden = !none;
  if (none) {
    const reasons = [...new Set(set().points.map((p) => p.reason).filter(Boolean))].slice(0, 3).join("; ");
    $$("viewer-missing").textContent = `No pictures of this dataset are in the file: ${set().no_pictures || reasons}.`;
    $$("patches").hidden = true;
    return;
  }
  drawSides();
  drawButtons();
  drawStrip();
  drawPatches();
  show();
}

function notice(text) {
  $$("viewer-missing").hidden = !text;
  $$("viewer-missing").textContent = text;
}

/** A point becomes A; where it has no pictures, the nearest of its codec does, and the page says so. */
function openPoint(index, image = state.image) {
  const p = point(index), near = p.pictures ? index : nearest(pictured(p.codec), rate(index));
  const scroll = () => { $$("viewer").scrollIntoView(); $$("viewer-title").focus({ preventScroll: true }); };
  if (near === null) {
    notice(`No pictures of ${codecOf(p).title} are in this file: ${p.reason || set().no_pictures}.`);
    say($$("viewer-missing").textContent);
    scroll();
    return;
  }
  state.a = near;
  state.image = image;
  if (state.b === state.a || point(state.b).codec === p.codec) state.b = pictured().find((i) => point(i).codec !== p.codec) ?? state.b;
  matchB();
  drawViewer();
  notice(near === index ? "" : `No pictures of ${named(p)} are in this file (${p.reason}). Shown is ${named(point(near))}, the nearest that has some.`);
  drawChart();
  drawTable();
  say(`A is ${named(point(near))}, B is ${named(point(state.b))}`);
  scroll();
}

function chooseSide(side, index) {
  state[side] = index;
  if (side === "a") matchB();
  else state.match = state.match && index === nearest(pictured(point(index).codec), rate(state.a));
  notice("");
  drawViewer();
  drawChart();
  drawTable();
}

/** A codec for one side; the other side takes the former one when both would show the same. */
function chooseCodec(side, codec) {
  const other = side === "a" ? "b" : "a", former = point(state[side]).codec;
  const near = rate(state[side === "b" && state.match ? "a" : side]);
  if (point(state[other]).codec === codec) state[other] = nearest(pictured(former), rate(state[other])) ?? state[other];
  chooseSide(side, nearest(pictured(codec), near));
}

function chooseImage(image) {
  state.image = (image + set().pictures) % set().pictures;
  for (const button of $$("strip").children) button.setAttribute("aria-pressed", String(Number(button.dataset.image) === state.image));
  show();
}

/** Draw a part of a picture into a small canvas as soon as it comes into view. */
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    entry.target.lazily();
  }
}, { rootMargin: "200px" });

function thumbnail(width, height, source, image, crop) {
  const made = surface(width, height);
  made.setAttribute("aria-hidden", "true");
  made.lazily = async () => {
    const picture = await bitmap(source, image);
    if (!picture) return;
    const [x, y, w, t] = crop ?? cover(picture, width / height);
    const to = made.getContext("2d");
    to.imageSmoothingQuality = "high";
    to.drawImage(picture, x, y, w, t, 0, 0, width, height);
  };
  seen.observe(made);
  return made;
}

function cover(picture, ratio) {
  const width = Math.min(picture.width, picture.height * ratio), height = width / ratio;
  return [(picture.width - width) / 2, (picture.height - height) / 2, width, height];
}

function drawStrip() {
  const p = point(state.a);
  $$("strip-title").textContent = `Images of A: ${named(p)}`;
  $$("strip").replaceChildren(...Array.from({ length: set().pictures }, (_, i) => i).filter((i) => stored(state.a, i)).map((i) => h("button", {
    type: "button", "data-image": i, "aria-pressed": String(i === state.image), onclick: () => chooseImage(i),
  }, thumbnail(240, 160, state.a, i), h("span", {}, set().images[i].name), h("span", { class: "facts" }, caption("A", i).split(" · ").slice(1).join(" · ")))));
}

// ---- gestures and keys

function zoomAt(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const panel = panels().find((p) => x >= p.x && x <= p.x + p.width && y >= p.y && y <= p.y + p.height) ?? panels()[0];
  const old = scale(), [left, top] = origin(panel), ix = (x - left) / old, iy = (y - top) / old;
  zoomTo(Math.min(32, old * factor));
  const s = scale();
  state.cx = (ix - (x - panel.x - panel.width / 2) / s) / scene.width;
  state.cy = (iy - (y - panel.y - panel.height / 2) / s) / scene.height;
  settle();
}

/** Zoom to CSS pixels per image pixel, null: all in view; never below what that or one to one needs. */
function zoomTo(zoom) {
  const all = fit();
  state.zoom = zoom === null || Math.abs(zoom / all - 1) < 0.01 || zoom < Math.min(all, 1) ? null : zoom;
  settle();
}

/** Keep the centre where panning has an effect at once. */
function settle() {
  const s = scale(), panel = panels()[0];
  const limit = (centre, size, room) => { const half = Math.min(0.5, room / (2 * size * s)); return Math.min(1 - half, Math.max(half, centre)); };
  state.cx = limit(state.cx, scene.width, panel.width);
  state.cy = limit(state.cy, scene.height, panel.height);
  paint();
}

function pan(dx, dy) {
  state.cx -= dx / (scene.width * scale());
  state.cy -= dy / (scene.height * scale());
  settle();
}

function moveSplit(value) {
  state.split = Math.min(1, Math.max(0, value));
  paint();
}

function setMode(mode) { state.mode = mode; drawButtons(); show(); }
function setView(view) { state.view = view; state.zoom = null; drawButtons(); show(); }
function setShown(slot) { state.shown = slot; state.mode = "flip"; drawButtons(); show(); say(caption(slot)); }

function stepRate(by) {
  const own = pictured(point(state.a).codec).sort((i, j) => rate(i) - rate(j)), next = own[own.indexOf(state.a) + by];
  if (next !== undefined) chooseSide("a", next);
}

const full = () => (document.fullscreenElement ? document.exitFullscreen() : $$("stage").requestFullscreen?.());

function wireViewer() {
  for (const side of ["a", "b"]) {
    $$(`${side}-codec`).addEventListener("change", (event) => chooseCodec(side, event.target.value));
    $$(`${side}-point`).addEventListener("change", (event) => chooseSide(side, Number(event.target.value)));
  }
  $$("match").addEventListener("change", (event) => { state.match = event.target.checked; matchB(); drawViewer(); drawChart(); drawTable(); });
  $$("modes").addEventListener("click", (event) => { if (event.target.dataset.mode) setMode(event.target.dataset.mode); });
  $$("views").addEventListener("click", (event) => { if (event.target.dataset.view) setView(event.target.dataset.view); });
  $$("pairs").addEventListener("click", (event) => { if (event.target.dataset.pair) { state.pair = event.target.dataset.pair; drawButtons(); show(); } });
  $$("shown").addEventListener("click", (event) => { if (event.target.dataset.shown) setShown(event.target.dataset.shown); });
  $$("gain").addEventListener("input", (event) => { state.gain = Number(event.target.value); drawButtons(); show(); });
  $$("zooms").addEventListener("click", (event) => {
    const wanted = event.target.dataset.zoom;
    if (wanted === "in" || wanted === "out") zoomAt(wanted === "in" ? 2 : 0.5);
    else if (wanted) zoomTo(wanted === "fit" ? null : Number(wanted));
  });
  $$("full").addEventListener("click", full);
  $$("previous").addEventListener("click", () => chooseImage(state.image - 1));
  $$("next").addEventListener("click", () => chooseImage(state.image + 1));
  new ResizeObserver(() => { if (scene.slots.length) { settle(); describe(); } }).observe($$("stage"));

  const fingers = new Map();
  let pinch = null;
  const place = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, place(event));
    canvas.setPointerCapture(event.pointerId);
    pinch = null;
    if (fingers.size === 1 && state.mode === "slide" && !isZoomed()) moveSplit(place(event)[0] / canvas.clientWidth);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    fingers.set(event.pointerId, now);
    if (fingers.size === 2) {
      const [[ax, ay], [bx, by]] = [...fingers.values()], apart = Math.hypot(ax - bx, ay - by);
      if (pinch) zoomAt(apart / pinch, (ax + bx) / 2, (ay + by) / 2);
      pinch = apart;
    } else if (isZoomed()) pan(now[0] - before[0], now[1] - before[1]);
    else if (state.mode === "slide") moveSplit(now[0] / canvas.clientWidth);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => { fingers.delete(event.pointerId); pinch = null; });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && !document.fullscreenElement) return; // the page scrolls
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY / 300), ...place(event));
  }, { passive: false });
  canvas.addEventListener("dblclick", (event) => { if (isZoomed()) zoomTo(null); else zoomAt(4 / scale(), ...place(event)); });

  const divider = $$("divider");
  divider.addEventListener("pointerdown", (event) => divider.setPointerCapture(event.pointerId));
  divider.addEventListener("pointermove", (event) => { if (divider.hasPointerCapture(event.pointerId)) moveSplit(place(event)[0] / canvas.clientWidth); });
  divider.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: state.split - 0.02, ArrowRight: state.split + 0.02, PageDown: state.split - 0.1, PageUp: state.split + 0.1, Home: 0, End: 1 };
    if (!(event.key in moves)) return;
    event.preventDefault();
    event.stopPropagation();
    moveSplit(moves[event.key]);
  });

  const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  const keys = {
    1: () => setShown("O"), 2: () => setShown("A"), 3: () => setShown("B"), " ": () => setShown(state.shown === "A" ? "B" : "A"),
    s: () => setMode("slide"), f: () => setMode("flip"), d: () => setMode("side"), p: () => setView("picture"), e: () => setView("difference"), x: () => setView("spectrum"),
    "+": () => zoomAt(2), "=": () => zoomAt(2), "-": () => zoomAt(0.5), 0: () => zoomTo(null), 9: () => zoomTo(1),
    ",": () => chooseImage(state.image - 1), ".": () => chooseImage(state.image + 1), "[": () => stepRate(-1), "]": () => stepRate(1), enter: full,
  };
  $$("stage").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in arrows) {
      event.preventDefault();
      const [dx, dy] = arrows[event.key];
      if (isZoomed()) pan(60 * dx, 60 * dy);
      else if (state.mode === "slide") moveSplit(state.split - 0.02 * dx);
    } else if (event.key.toLowerCase() in keys) {
      event.preventDefault();
      keys[event.key.toLowerCase()]();
    }
  });
}
