// The page of `maps explore`: colours of the scatter and their legend, tabs, keys, light and dark, start.
"use strict";
const PALETTE = ["#0b72c4", "#e07b1a", "#12946a", "#c9529b", "#8a63d2", "#b59b00", "#37a7d8", "#b5493a", "#5f8f2f", "#7a5230", "#d98ac0", "#4054b2"];
const VIRIDIS = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
let paint = null;

// [{key, label, text(row) or number(row)}] by which points can be coloured.
const choicesOfColour = () => [
  {label: "kind", text: row => KINDS[data.kinds[row]], colours: level => COLOURS[{gene: "g", compound: "c", control: "x"}[level]]},
  ...data.scores.flatMap(one => [
    {label: one.name === data.scores[0].name ? "active or not" : `${one.label}: significant`, text: row => one.q[row] === null ? "" : one.q[row] <= data.fdr ? "active" : "not active", colours: level => ink(level === "active" ? "accent" : "point")},
    {label: one.label, number: row => one.values[row]}]),
  ...(data.cells ? [{label: "cells a well", number: row => data.cells.values[row]}, {label: `cells, share ${data.cells.of.replace(/ \(.*/, "")}`, number: row => data.cells.share[row]}] : []),
  {label: "profile length", number: row => data.maps[current].length[row]},
  ...data.columns.map((column, k) => column.kind === "number" ? {label: column.label, number: row => column.values[row]} : column.colours ? {label: column.label, text: row => cell(k, row)} : null).filter(Boolean),
];

const told = row => !paint || paint.label === "kind" ? "" : paint.tell(row);

function colourBy(choice) {
  if (choice.number) {
    const values = [...data.names.keys()].map(choice.number), real = values.filter(value => value !== null).sort((a, b) => a - b);
    const low = real[Math.floor(.02 * (real.length - 1))] ?? 0, high = real[Math.ceil(.98 * (real.length - 1))] ?? 1;
    paint = {label: choice.label, known: row => values[row] !== null, of: row => values[row] === null ? ink("point") : along(VIRIDIS, (values[row] - low) / Math.max(1e-12, high - low)),
      tell: row => values[row] === null ? "" : `${choice.label} ${+values[row].toPrecision(4)}`};
    const scale = make("div", null, "scale"), ends = make("div", null, "ends");
    scale.style.background = `linear-gradient(to right, ${VIRIDIS.map(one => `rgb(${one})`).join(",")})`;
    ends.append(make("span", `\u2264 ${+low.toPrecision(3)}`), make("span", `\u2265 ${+high.toPrecision(3)}`));
    const none = values.length - real.length;
    legend([scale, ends, ...(none ? [make("p", `${none} without a value, in grey`)] : [])]);
    return;
  }
  const values = [...data.names.keys()].map(choice.text), counts = new Map();
  for (const value of values) if (value) counts.set(value, (counts.get(value) || 0) + 1);
  const names = [...counts.keys()].sort((a, b) => counts.get(b) - counts.get(a) || (a < b ? -1 : 1)), many = names.slice(0, names.length > PALETTE.length ? PALETTE.length - 1 : PALETTE.length);
  const colours = new Map(many.map((name, i) => [name, choice.colours ? choice.colours(name) : PALETTE[i]]));
  paint = {label: choice.label, known: row => colours.has(values[row]), of: row => colours.get(values[row]) || ink("point"), tell: row => values[row] ? `${choice.label} ${values[row]}` : ""};
  const entry = name => {
    const one = button(null, () => pick([...data.names.keys()].filter(row => values[row] === name), name)), box = make("i", null, mixed && name === "compound" ? "square" : "");
    box.style.background = colours.get(name) || ink("point");
    one.dataset.level = name;
    one.title = "Choose these as the set";
    one.onpointerenter = one.onfocus = () => { shownAlone = [...data.names.keys()].filter(row => values[row] === name); drawScatter(); };
    one.onpointerleave = one.onblur = () => { shownAlone = null; drawScatter(); };
    one.append(box, make("span", name), make("span", counts.get(name).toLocaleString("en")));
    return one;
  };
  const rest = names.length - many.length, none = values.filter(value => !value).length;
  legend([...names.slice(0, 60).map(entry), ...(rest ? [make("p", `${rest} smaller groups in grey`)] : []), ...(none ? [make("p", `${none} without a value, in grey`)] : [])]);
}

function legend(entries) {
  const ring = (text, name) => { const line = make("p"), box = make("i", null, "ring"); box.style.borderColor = `var(--${name})`; line.append(box, ` ${text}`); return line; };
  $("legend").replaceChildren(...entries, make("hr"), ring("chosen", "ink"), ring("looks alike, p \u2264 0.05", "alike"), ring("looks opposite, p \u2264 0.05", "opposite"));
}

function fillColours() {
  const choices = choicesOfColour();
  $("colour").replaceChildren(...choices.map(({label}, i) => { const one = make("option", label); one.value = i; return one; }));
  const mechanism = choices.findIndex(({label, text}) => text && /mechanism|moa|complex|cluster/i.test(label));
  const first = new Set(data.kinds).size > 1 ? 0 : data.scores.length ? 1 : Math.max(0, mechanism);
  $("colour").value = first;
  colourBy(choices[first]);
  $("colour").onchange = () => { picked = []; colourBy(choicesOfColour()[$("colour").value]); drawScatter(); };
}

// ---- tabs, theme, keys
function showView(id) {
  document.querySelectorAll("[data-view]").forEach(tab => tab.setAttribute("aria-selected", tab.dataset.view === id));
  document.querySelectorAll(".view").forEach(view => view.classList.toggle("on", view.id === id));
  redraw();
}

function redraw() { drawRamp(); drawHeat(); drawScatter(); }

document.querySelectorAll("[data-view]").forEach(tab => { tab.onclick = () => showView(tab.dataset.view); });
document.addEventListener("theme", () => { fillColours.again?.(); redraw(); });
fillColours.again = () => { if (data.layout) colourBy(choicesOfColour()[$("colour").value]); };
$("help-open").onclick = () => $("help").showModal();
$("help").onclick = event => { if (event.target === $("help")) $("help").close(); };

document.onkeydown = event => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
  const rows = [...document.querySelectorAll("#lists tbody button")], at = rows.indexOf(document.activeElement), tabs = [...document.querySelectorAll("[data-view]")];
  const step = to => { if (rows.length) rows[Math.max(0, Math.min(rows.length - 1, to))].focus(); };
  const keys = {"/": () => $("search").focus(), "?": () => $("help").showModal(), j: () => step(at + 1), k: () => step(at - 1), "[": goBack, t: () => $("theme").click(),
    l: () => { showView("scatter-section"); lassoing(!scatter.lasso); }, 1: () => showView("scatter-section"), 2: () => showView("set-section"),
    Escape: () => { picked = []; lassoing(false); redraw(); }};
  if (!keys[event.key]) return;
  keys[event.key]();
  event.preventDefault();
};

// ---- start: after the first paint, because decoding a large map takes a second
function start() {
  for (const map of data.maps) map.vectors = decode(map);
  $("precision").textContent = data.precision;
  $("main-score").textContent = data.scores[0] ? data.scores[0].label : "maps filter";
  if (data.maps.length > 1) {
    $("maps").hidden = false;
    data.maps.forEach((map, i) => {
      const label = make("label"), radio = make("input");
      radio.type = "radio";
      radio.name = "map";
      radio.value = i;
      radio.checked = i === current;
      radio.onchange = () => { current = i; choose(chosen); useNeighbours(); };
      label.append(radio, map.name);
      $("maps").append(label);
    });
  }
  document.querySelector("main").hidden = false;
  if (data.layout) {
    layout = halves($("layout").textContent);
    $("scatter-caption").textContent = `${data.layout}.`;
    fillColours();
  } else $("tab-scatter").hidden = true;
  let wanted = "";
  try { wanted = decodeURIComponent(location.hash.slice(1)).toLowerCase(); } catch { /* not a name */ }
  choose(rowOf.has(wanted) ? rowOf.get(wanted) : chosen, {back: true});
  if (data.set.length) setHeat(data.set); else useNeighbours();
  showView(data.layout ? "scatter-section" : "set-section");
  new ResizeObserver(redraw).observe(document.querySelector("main"));
  document.body.dataset.ready = "yes";
}
requestAnimationFrame(() => setTimeout(start));
