// The page of `maps explore`: the profiles, choosing, neighbours, search. Texts from the data are set as text, never as HTML.
"use strict";
const $ = id => document.getElementById(id);
const data = JSON.parse($("data").textContent), N = data.names.length;
const KINDS = {g: "gene", c: "compound", x: "control"}, COLOURS = {g: "#0b72c4", c: "#d9661f", x: "#8b95a1"};
const MAX_SET = 200, SHOWN = 10;
const {known} = data;
let chosen = data.start, current = data.maps.length - 1, side = "similar", count = SHOWN, hovered = -1, layout = null;
const before = [];

const make = (tag, text, className) => {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (className) element.className = className;
  return element;
};
const button = (text, action, className) => {
  const element = make("button", text, className);
  element.type = "button";
  element.onclick = action;
  return element;
};
const ink = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
let fading = 0;
function say(text) {
  $("status").textContent = text;
  $("status").classList.add("on");
  clearTimeout(fading);
  fading = setTimeout(() => $("status").classList.remove("on"), 4000);
}

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
const whole = value => Math.round(value).toLocaleString("en");
const percent = value => `${value >= 0.1 || value === 0 ? Math.round(100 * value) : (100 * value).toFixed(1)} %`;

// ---- names: many rows are called by an id; people know another name
const cell = (column, row) => { const code = data.columns[column].codes[row]; return code >= 0 ? data.columns[column].levels[code] : ""; };
const people = row => data.readable < 0 ? "" : cell(data.readable, row);
// What a row is called in the views: the readable name, with its dose and a number where others have it too.
const titles = data.names.map((name, row) => !people(row) ? name : data.doses[row] ? `${people(row)} ${data.doses[row]}` : people(row)), times = new Map();
titles.forEach((text, row) => { times.set(text, (times.get(text) || 0) + 1); if (times.get(text) > 1) titles[row] = `${text} #${times.get(text)}`; });
const title = row => titles[row];
// What a list calls it, with the row's own name below.
const head = row => people(row) || data.names[row];
const both = row => head(row) === data.names[row] ? data.names[row] : `${head(row)} (${data.names[row]})`;
const targets = row => data.kinds[row] === "g" ? [] : (known.targets[row] || []).map(k => known.names[k]);
// What is told beside a name: the targets of a compound, the guide of a gene.
const targetText = row => data.guides[row] || targets(row).join(", ") || (data.kinds[row] === "g" || data.genes[row] === data.names[row] ? "" : data.genes[row]);

// ---- choosing a perturbation
function choose(row, {focus = false, back = false} = {}) {
  if (row !== chosen && !back) { before.push(chosen); if (before.length > 200) before.shift(); }
  if (row !== chosen) count = SHOWN;
  chosen = row;
  hovered = -1;
  $("back").disabled = !before.length;
  showCard();
  showNeighbours();
  showDetails();
  drawScatter();
  try { history.replaceState(null, "", "#" + encodeURIComponent(data.names[row])); } catch { /* a page inside a notebook has no address */ }
  if (focus) { $("chosen").focus({preventScroll: true}); $("card").scrollIntoView({block: "nearest"}); }
}

function goBack() { if (before.length) { choose(before.pop(), {back: true}); useNeighbours(); } }

// Rows a side shows: the most alike or opposite of each kind, or the known partners, with their cosines.
function found() {
  const map = data.maps[current], values = cosines(map, chosen), only = $("only").value, groups = {};
  for (const kind of "gc") {
    if (!data.kinds.includes(kind) || (only && only !== kind)) continue;
    if (side === "known") groups[kind] = partners(chosen).filter(row => data.kinds[row] === kind).sort((a, b) => values[b] - values[a]).slice(0, count);
    else { const sign = side === "similar" ? 1 : -1; groups[kind] = nearest(values, kind, sign, count).filter(row => sign * values[row] > 0); }
  }
  return {map, values, groups};
}

function showNeighbours() {
  const {map, values, groups} = found(), score = data.scores[0], many = Object.keys(groups).length > 1;
  // For the scatter's rings and the heat map, whichever side is shown.
  map.found = {};
  for (const kind of "gc") for (const [name, sign] of [["similar", 1], ["opposite", -1]])
    map.found[name + kind] = nearest(values, kind, sign, SHOWN).filter(row => sign * values[row] > 0);
  document.querySelectorAll("[data-side]").forEach(tab => tab.setAttribute("aria-selected", tab.dataset.side === side));
  const heads = [["name", ""], ["cosine", ""], ["p", "p"], ...(score ? [[`${score.label} q`, ""]] : []), ...(data.replicates ? [["n", ""]] : []), ...(data.cells ? [["cells", ""]] : [])];
  const hints = {p: "share of all pairs of this map that are as alike, or as opposite", n: "replicates: profiles that went into the row", cells: "cells a well, mean",
    cosine: "+1: the same direction, \u22121: the opposite"};
  $("lists").replaceChildren(...Object.entries(groups).map(([kind, rows]) => {
    const table = make("table", null, "list"), head = make("tr"), body = make("tbody");
    table.id = `list-${kind}`;
    if (many) table.append(make("caption", kind === "g" ? "Genes" : "Compounds"));
    for (const [text, className] of heads) { const th = make("th", text, className); th.scope = "col"; if (hints[text]) th.title = hints[text]; head.append(th); }
    const top = make("thead");
    top.append(head);
    body.append(...rows.map(row => neighbour(row, values[row], map, score)));
    if (!rows.length) { const line = make("tr"), none = make("td", side === "known" ? "no known partner of this kind in the map" : "none in this map", "none-here"); none.colSpan = heads.length; line.append(none); body.append(line); }
    table.append(top, body);
    return table;
  }));
  $("more").hidden = !Object.values(groups).some(rows => rows.length >= count);
}

function neighbour(row, value, map, score) {
  const line = make("tr"), first = make("td"), go = button(head(row), event => { event.stopPropagation(); choose(row, {focus: true}); useNeighbours(); });
  line.dataset.name = data.names[row];
  line.dataset.row = row;
  line.dataset.cosine = value;
  line.onclick = () => { if (!String(getSelection())) { choose(row); useNeighbours(); } };
  line.onpointerenter = go.onfocus = () => point(row);
  line.onpointerleave = go.onblur = () => point(-1);
  first.append(go);
  const small = make("small", targetText(row));
  if (head(row) !== data.names[row]) small.append(targetText(row) ? " \u00b7 " : "", make("span", data.names[row], "id"));
  for (const name of relations(chosen, row)) first.append(" ", make("span", name, "chip good"));
  if (small.textContent) first.append(small);
  const number = make("td"), bar = make("span", null, `bar-of ${value < 0 ? "opposite" : ""}`), fill = make("i");
  fill.style.width = `${100 * Math.min(1, Math.abs(value))}%`;
  bar.append(fill);
  number.append(bar, signed(value));
  line.append(first, number, make("td", shown(share(map, value, value < 0 ? -1 : 1)), "p"));
  if (score) { const q = score.q[row]; line.append(make("td", q === null ? "\u2013" : shown(q), q === null ? "no" : q <= data.fdr ? "yes" : "no")); }
  if (data.replicates) line.append(make("td", data.replicates[row] ?? "\u2013"));
  if (data.cells) line.append(make("td", data.cells.values[row] === null ? "\u2013" : whole(data.cells.values[row]), toxic(row) ? "low" : ""));
  return line;
}

document.querySelectorAll("[data-side]").forEach(tab => { tab.onclick = () => { side = tab.dataset.side; count = SHOWN; showNeighbours(); }; });
$("only").onchange = showNeighbours;
$("more").onclick = () => { count += 20; showNeighbours(); };
$("back").onclick = goBack;

// ---- search: any part of any name, in all columns that hold names
const lower = data.names.map(name => name.toLowerCase());
const rowOf = new Map();
lower.forEach((name, row) => { if (!rowOf.has(name)) rowOf.set(name, row); });
titles.forEach((text, row) => { if (!rowOf.has(text.toLowerCase())) rowOf.set(text.toLowerCase(), row); });
const searched = data.columns.map((column, k) => k).filter(k => data.columns[k].searched);
const levels = new Map();  // of a column: its values in small letters
let hits = [], active = -1, word = "";

// {row, column (-1: the row's own name), rank} of the rows that hold the word, the best first.
function matches(text) {
  const word = text.trim().toLowerCase(), best = [];
  if (!word) return best;
  const rank = value => { const at = value.indexOf(word); return at < 0 ? 9 : value === word ? 0 : at === 0 ? 1 : /[^a-z0-9]/.test(value[at - 1]) ? 2 : 3; };
  const ranks = searched.map(k => {
    if (!levels.has(k)) levels.set(k, data.columns[k].levels.map(level => level.toLowerCase()));
    return levels.get(k).map(rank);
  });
  for (let row = 0; row < N; row++) {
    let least = rank(lower[row]), column = -1;
    if (least > 0 && data.genes[row]) { const r = rank(data.genes[row].toLowerCase()); if (r < least) { least = r; column = -2; } }
    if (least > 0) searched.forEach((k, i) => {
      const code = data.columns[k].codes[row], r = code < 0 ? 9 : ranks[i][code] + .5 * (k !== data.readable);
      if (r < least) { least = r; column = k; }
    });
    if (least < 9) best.push({row, column, rank: least});
  }
  return best.sort((a, b) => a.rank - b.rank || a.row - b.row);
}

function marked(text, className) {
  const box = make(className === "small" ? "small" : "span"), at = text.toLowerCase().indexOf(word);
  if (at < 0) box.textContent = text;
  else box.append(text.slice(0, at), make("mark", text.slice(at, at + word.length)), text.slice(at + word.length));
  return box;
}

function showHits() {
  word = $("search").value.trim().toLowerCase();
  const all = matches(word);
  hits = all.slice(0, 40).map(hit => hit.row);
  active = hits.length ? 0 : -1;
  $("hits").replaceChildren(...all.slice(0, 40).map(({row, column}, i) => {
    const item = make("li"), about = [KINDS[data.kinds[row]], head(row) !== data.names[row] ? data.names[row] : "", targetText(row)].filter(Boolean).join(" \u00b7 ");
    item.id = `hit${i}`;
    item.setAttribute("role", "option");
    item.append(marked(head(row)), marked(about, "small"));
    if (column >= 0 && column !== data.readable) item.append(marked(`${data.columns[column].label}: ${cell(column, row)}`, "small"));
    item.onpointerdown = event => { event.preventDefault(); take(row); };
    return item;
  }));
  if (all.length > 40) $("hits").append(make("li", `and ${(all.length - 40).toLocaleString("en")} more: type on`));
  if (word && !hits.length) $("hits").append(make("li", "no name in this map holds that"));
  mark();
  openHits(word !== "");
}

function mark() {
  $("hits").querySelectorAll("[role]").forEach((item, i) => item.setAttribute("aria-selected", i === active));
  if (active >= 0) { $("search").setAttribute("aria-activedescendant", `hit${active}`); $(`hit${active}`).scrollIntoView({block: "nearest"}); }
  else $("search").removeAttribute("aria-activedescendant");
}

function openHits(open) {
  $("hits").hidden = !open;
  $("search").setAttribute("aria-expanded", open);
}

function take(row) {
  $("search").value = title(row);
  openHits(false);
  choose(row);
  useNeighbours();
}

$("search").oninput = showHits;
$("search").onfocus = () => $("search").select();
$("search").onblur = () => openHits(false);
$("search").onkeydown = event => {
  if (event.key === "Escape") { openHits(false); $("search").blur(); }
  else if (event.key === "Enter" && active >= 0) { take(hits[active]); $("search").blur(); }
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
  save(`${data.names[chosen].replace(/[^\w-]+/g, "_")}_neighbours.csv`, [
    ["name", ...(data.readable < 0 ? [] : [data.columns[data.readable].name]), "kind", "target", "cosine", "p_alike", "p_opposite", ...data.scores.map(one => `${one.name}_q`), "replicates", "cells", "known"],
    ...rows.map(row => [data.names[row], ...(data.readable < 0 ? [] : [people(row)]), KINDS[data.kinds[row]], data.genes[row], values[row].toFixed(5), share(map, values[row], 1),
      share(map, values[row], -1), ...data.scores.map(one => one.q[row] ?? ""), data.replicates?.[row] ?? "", data.cells?.values[row] ?? "", relations(chosen, row).join("|")])]);
};
