// The page of `maps explore`: search, neighbours, heat map, scatter. Texts from the data are set as text, never as HTML.
"use strict";
const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), N = data.names.length;
const KINDS = {g: "gene", c: "compound", x: "control"}, COLOURS = {g: "#0072b2", c: "#d55e00", x: "#888888"};
const RAMP = [[5, 48, 97], [67, 147, 195], [209, 229, 240], [247, 247, 247], [253, 219, 199], [214, 96, 77], [103, 0, 31]];
const MAX_SET = 200, NEIGHBOURS = 10;
let chosen = data.start, current = data.maps.length - 1, set = [], order = [], squares = [], layout = null;

const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
};

// ---- the profiles: unit vectors, float16 or int8 in base64, little-endian
function bytes(text) {
  const raw = atob(text.trim()), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

function half(code) {
  const sign = code & 0x8000 ? -1 : 1, exponent = code >> 10 & 31, fraction = code & 1023;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * fraction / 1024);
}

function halves(text) {
  const codes = new Uint16Array(bytes(text).buffer), table = new Float32Array(65536), out = new Float32Array(codes.length);
  for (let i = 0; i < 65536; i++) table[i] = half(i);
  for (let i = 0; i < out.length; i++) out[i] = table[codes[i]];
  return out;
}

function decode(map) {
  const text = $(map.id).textContent, dim = map.dim;
  const out = map.encoding === "int8" ? Float32Array.from(new Int8Array(bytes(text).buffer)) : halves(text);
  for (let row = 0; row < N; row++) {
    let sum = 0;
    for (let k = row * dim; k < (row + 1) * dim; k++) sum += out[k] * out[k];
    const scale = sum > 0 ? 1 / Math.sqrt(sum) : 0;
    for (let k = row * dim; k < (row + 1) * dim; k++) out[k] *= scale;
  }
  $(map.id).remove();
  return out;
}

function cosine(map, a, b) {
  const v = map.vectors, dim = map.dim;
  let sum = 0;
  for (let k = 0, i = a * dim, j = b * dim; k < dim; k++) sum += v[i + k] * v[j + k];
  return sum;
}

function cosines(map, row) {
  const out = new Float32Array(N);
  for (let other = 0; other < N; other++) out[other] = cosine(map, row, other);
  return out;
}

// Rows of a kind with the largest sign * value, the first ones first where they are equal.
function nearest(values, kind, sign, count) {
  const best = [];
  for (let row = 0; row < N; row++) {
    if (row === chosen || data.kinds[row] !== kind) continue;
    const value = sign * values[row];
    if (best.length === count && value <= sign * values[best[count - 1]]) continue;
    let place = best.length;
    while (place && value > sign * values[best[place - 1]]) place--;
    best.splice(place, 0, row);
    if (best.length > count) best.pop();
  }
  return best;
}

// Share of all pairs of the map that are as alike (sign 1) or as opposite (-1); whole bins count, so it errs upwards.
function share(map, value, sign) {
  const below = map.below, last = below.length - 1, total = below[last];
  const bin = Math.max(0, Math.min(last - 1, Math.floor((value + 1) / 2 * last)));
  return Math.max(1, sign > 0 ? total - below[bin] : below[bin + 1]) / total;
}

const shown = p => p >= 0.01 ? p.toFixed(2) : p >= 0.0001 ? p.toFixed(4) : p.toExponential(0);
const signed = value => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(3);

// ---- choosing a perturbation
function choose(row, focus) {
  chosen = row;
  const kind = data.kinds[row], map = data.maps[current], values = cosines(map, row);
  $("chosen").textContent = data.names[row];
  const about = [`${KINDS[kind][0].toUpperCase()}${KINDS[kind].slice(1)}`];
  if (kind === "c" && data.genes[row]) about.push(`known target: ${data.genes[row]}`);
  if (data.doses[row]) about.push(`dose ${data.doses[row]}`);
  if (data.arms && data.arms[row]) about.push(`chromosome arm ${data.arms[row]}`);
  $("about").textContent = about.join(" \u00b7 ");
  map.found = {};
  for (const k of "gc") for (const [side, sign] of [["similar", 1], ["opposite", -1]]) {
    const box = $(`${side}-${k}`).parentElement;
    box.hidden = !data.kinds.includes(k);
    const rows = nearest(values, k, sign, NEIGHBOURS).filter(other => sign * values[other] > 0), list = $(`${side}-${k}`);
    map.found[side + k] = rows;
    list.replaceChildren(...rows.map(other => {
      const item = make("li"), button = make("button", data.names[other]);
      button.type = "button";
      button.title = data.names[other];
      button.onclick = () => choose(other, true);
      item.dataset.name = data.names[other];
      item.dataset.cosine = values[other];
      item.append(button, make("span", signed(values[other]), "cosine"), make("span", `p ${shown(share(map, values[other], sign))}`, "p"));
      return item;
    }));
    if (!rows.length) list.append(make("li", "none in this map", "none"));
  }
  pictures(row);
  drawScatter();
  try { history.replaceState(null, "", "#" + encodeURIComponent(data.names[row])); } catch { /* a page inside a notebook has no address */ }
  $("status").textContent = `Showing ${data.names[row]}, ${map.name}.`;
  if (focus) $("chosen").focus({preventScroll: true});
}

function pictures(row) {
  const box = $("pictures"), own = data.thumbnails[row] || [];
  box.hidden = !data.channels;
  if (!data.channels) return;
  const figure = ([src, caption]) => {
    const one = make("figure"), image = make("img");
    image.src = src;
    image.alt = caption;
    one.append(image, make("figcaption", caption));
    return one;
  };
  const first = own.length ? `Cells of this perturbation. ${data.channels}` : "There is no picture of this perturbation in the page.";
  const controls = own.length && data.controls.length ? [make("p", "Untreated controls, with the same contrast:", "note"), ...data.controls.map(figure)] : [];
  box.replaceChildren(make("p", first, "note"), ...own.map(figure), ...controls);
}

// ---- type-ahead
const lower = data.names.map(name => name.toLowerCase());
const rowOf = new Map();
lower.forEach((name, row) => { if (!rowOf.has(name)) rowOf.set(name, row); });
let hits = [], active = -1;

function matches(text) {
  const word = text.trim().toLowerCase(), first = [], later = [];
  if (!word) return [];
  for (let row = 0; row < N && first.length < 12; row++) {
    const at = lower[row].indexOf(word);
    if (at === 0) first.push(row);
    else if ((at > 0 || data.genes[row].toLowerCase() === word) && later.length < 12) later.push(row);
  }
  const exact = rowOf.get(word);
  return [...new Set([...(exact === undefined ? [] : [exact]), ...first, ...later])].slice(0, 12);
}

function showHits() {
  hits = matches($("search").value);
  active = hits.length ? 0 : -1;
  $("hits").replaceChildren(...hits.map((row, i) => {
    const item = make("li", data.names[row] + " ");
    item.id = `hit${i}`;
    item.setAttribute("role", "option");
    item.append(make("span", KINDS[data.kinds[row]] + (data.kinds[row] === "c" && data.genes[row] ? `, target ${data.genes[row]}` : "")));
    item.onpointerdown = event => { event.preventDefault(); take(row); };
    return item;
  }));
  if ($("search").value.trim() && !hits.length) $("hits").append(make("li", "no such name in this map"));
  mark();
  openHits($("search").value.trim() !== "");
}

function mark() {
  [...$("hits").children].forEach((item, i) => item.setAttribute("aria-selected", i === active));
  if (active >= 0) { $("search").setAttribute("aria-activedescendant", `hit${active}`); $(`hit${active}`).scrollIntoView({block: "nearest"}); }
  else $("search").removeAttribute("aria-activedescendant");
}

function openHits(open) {
  $("hits").hidden = !open;
  $("search").setAttribute("aria-expanded", open);
}

function take(row) {
  $("search").value = data.names[row];
  openHits(false);
  choose(row, false);
  useNeighbours();
}

$("search").oninput = showHits;
$("search").onblur = () => openHits(false);
$("search").onkeydown = event => {
  if (event.key === "Escape") openHits(false);
  else if (event.key === "Enter" && active >= 0) take(hits[active]);
  else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && hits.length) {
    openHits(true);
    active = (active + (event.key === "ArrowDown" ? 1 : hits.length - 1)) % hits.length;
    mark();
    event.preventDefault();
  }
};

// ---- tables to keep
function save(name, lines) {
  const cell = value => /^[=+\-@\t\r]/.test(value) && isNaN(value) ? `"'${value.replaceAll('"', '""')}"` : `"${String(value).replaceAll('"', '""')}"`;
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([lines.map(line => line.map(value => cell(String(value))).join(",") + "\r\n").join("")], {type: "text/csv"}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

$("save-neighbours").onclick = () => {
  const map = data.maps[current], values = cosines(map, chosen), rows = [...values.keys()].filter(row => row !== chosen).sort((a, b) => values[b] - values[a]);
  save(`${data.names[chosen].replace(/[^\w-]+/g, "_")}_neighbours.csv`, [["name", "kind", "target", "cosine", "p_alike", "p_opposite"],
    ...rows.map(row => [data.names[row], KINDS[data.kinds[row]], data.genes[row], values[row].toFixed(5), share(map, values[row], 1), share(map, values[row], -1)])]);
};
$("save-heat").onclick = () => save("heat_map.csv", [["map", "name", ...order.map(row => data.names[row])],
  ...squares.flatMap((square, k) => square.map((line, i) => [data.maps[k].name, data.names[order[i]], ...line.map(value => value.toFixed(5))]))]);

// ---- start: after the first paint, because decoding a large map takes a second
function start() {
  for (const map of data.maps) map.vectors = decode(map);
  $("precision").textContent = data.precision;
  if (data.maps.length > 1) {
    $("maps").hidden = false;
    data.maps.forEach((map, i) => {
      const label = make("label"), button = make("input");
      button.type = "radio";
      button.name = "map";
      button.value = i;
      button.checked = i === current;
      button.onchange = () => { current = i; choose(chosen, false); useNeighbours(); };
      label.append(button, ` ${map.name} `);
      $("maps").append(label);
    });
  }
  document.querySelector("main").hidden = false;
  if (data.layout) {
    layout = halves($("layout").textContent);
    $("scatter-section").hidden = false;
    $("scatter-caption").textContent = `${data.layout}. Each point is a perturbation; near ones look alike. Click a point to choose it.`;
    const entry = (text, colour, className) => {
      const span = make("span"), box = make("i", undefined, className);
      box.style.background = box.style.borderColor = colour;
      span.append(box, text);
      return span;
    };
    const kinds = [..."gcx"].filter(kind => data.kinds.includes(kind));
    $("scatter-legend").replaceChildren(...kinds.map(kind => entry(KINDS[kind], COLOURS[kind], kind === "c" ? "square" : "")),
      entry("chosen", "#000", "ring"), entry("looks alike (p up to 0.05)", "#e69f00", "ring"), entry("looks opposite (p up to 0.05)", "#56b4e9", "ring"));
  }
  let wanted = "";
  try { wanted = decodeURIComponent(location.hash.slice(1)).toLowerCase(); } catch { /* not a name */ }
  choose(rowOf.has(wanted) ? rowOf.get(wanted) : chosen, false);
  drawRamp();
  if (data.set.length) setHeat(data.set); else useNeighbours();
  new ResizeObserver(() => { drawHeat(); drawScatter(); }).observe(document.querySelector("main"));
  document.body.dataset.ready = "yes";
}
requestAnimationFrame(() => setTimeout(start));
