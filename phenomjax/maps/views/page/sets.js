// The set of the heat map, in the page of `maps explore`: how it is chosen, and what it is enriched in.
"use strict";
let everyone = [], set = [], order = [], squares = [];  // all rows, those that are drawn, and in their order

function setHeat(rows, show = false) {
  everyone = [...new Set(rows)];
  set = everyone.slice(0, MAX_SET);
  const square = map => set.map(a => set.map(b => cosine(map, a, b)));
  const all = data.maps.map(square), by = cluster(set, all[current]);
  order = by.map(i => set[i]);
  squares = all.map(one => by.map(i => by.map(j => one[i][j])));
  $("set").value = order.map(row => data.names[row]).join("\n");
  $("set-count").textContent = order.length;
  const halves = data.maps.length > 1 ? ` Below the diagonal: ${data.maps[0].name}; above: ${data.maps[1].name}.` : "";
  $("heat-caption").textContent = `${order.length} perturbations, alike ones side by side.${halves}`;
  heat.most = Math.max(4, order.length / 3);
  heat.reset();
  showEnrichment();
  drawScatter();
  if (show) showView("set-section");
}

function useNeighbours() {
  const found = data.maps[current].found, take = (key, count) => (found[key] || []).slice(0, count);
  const many = data.kinds.includes("g") ? [10, 5, 5, 3] : [0, 10, 0, 6];
  picked = [];
  setHeat([chosen, ...take("similarg", many[0]), ...take("similarc", many[1]), ...take("oppositeg", many[2]), ...take("oppositec", many[3])]);
}

$("use-neighbours").onclick = () => { useNeighbours(); showView("set-section"); };
$("set-form").onsubmit = event => {
  event.preventDefault();
  const rows = [], missing = [];
  const look = word => rowOf.get(word.trim().toLowerCase());
  // A line is a name; else names between commas (which names of compounds may hold too); else between spaces.
  const read = (text, separators) => {
    if (!text.trim()) return;
    if (look(text) !== undefined) rows.push(look(text));
    else if (separators.length && separators[0].test(text)) text.split(separators[0]).forEach(part => read(part, separators.slice(1)));
    else if (separators.length) read(text, separators.slice(1));
    else missing.push(text.trim());
  };
  read($("set").value, [/\n/, /[,;\t]/, /\s/]);
  if (rows.length) { picked = rows; setHeat(rows); }
  const much = rows.length > MAX_SET ? ` The heat map shows the first ${MAX_SET}.` : "";
  say((missing.length ? `Not in this map: ${missing.slice(0, 8).join(", ")}${missing.length > 8 ? ", ..." : ""}.` : `${rows.length} in the heat map.`) + much);
};

// A set that was drawn around, or that shares a value.
function pick(rows, what) {
  if (rows.length < 2) { say(rows.length ? `Only ${title(rows[0])} is in it: a set needs two.` : "Nothing is in it."); return; }
  picked = rows;
  setHeat(rows, true);
  say(`${what}: ${rows.length} perturbations.${rows.length > MAX_SET ? ` The heat map shows the first ${MAX_SET}.` : ""}`);
}

// ---- enrichment: the hypergeometric test, in logarithms
const logs = new Float64Array(N + 2);
for (let i = 2; i < logs.length; i++) logs[i] = logs[i - 1] + Math.log(i);
const choices = (n, k) => logs[n] - logs[k] - logs[n - k];

// Of `population` rows `marked` have the term; the chance that at least k of n drawn ones have it.
function hypergeometric(k, n, marked, population) {
  let sum = 0;
  for (let i = k; i <= Math.min(n, marked); i++) if (n - i <= population - marked) sum += Math.exp(choices(marked, i) + choices(population - marked, n - i) - choices(population, n));
  return Math.min(1, sum);
}

// [{what, terms: [name], of: rows' lists of term numbers}], made when it is first asked for.
let vocabulary = null;
function terms() {
  if (vocabulary) return vocabulary;
  vocabulary = [];
  const add = (what, lists) => {
    const names = [], place = new Map();
    const of = lists.map(list => [...new Set(list)].map(name => { if (!place.has(name)) { place.set(name, names.length); names.push(name); } return place.get(name); }));
    if (names.length > 1) vocabulary.push({what, names, of});
  };
  const rows = [...data.names.keys()];
  if (data.kinds.includes("c")) add("target", rows.map(row => data.kinds[row] === "c" ? targets(row) : []));
  if (data.kinds.includes("g")) add("gene", rows.map(row => data.kinds[row] === "g" ? [data.genes[row]] : []));
  data.columns.forEach((column, k) => {
    if (column.kind !== "text" || !column.colours || /^((gene|target)s?|cluster \(.*)$/i.test(column.label)) return;
    add(column.label, rows.map(row => cell(k, row).split(/\s*[|;]\s*/).filter(Boolean)));
  });
  const sources = [...new Set(known.sets.map(one => one.source))];
  for (const source of sources) {
    const lists = rows.map(() => []);
    for (const one of known.sets) if (one.source === source) for (const name of one.members) for (const row of rowsOf[name]) lists[row].push(one.name);
    add(source, lists);
  }
  return vocabulary;
}

// What a set holds more often than chance: p of each term of two perturbations or more (a name with its doses is no term), q over all of them.
// Terms that mean the same rows are one.
function enrichment(rows) {
  const inside = new Set(rows), found = [];
  for (const {what, names, of} of terms()) {
    const all = new Int32Array(names.length), mine = new Int32Array(names.length), first = new Int32Array(names.length).fill(-1), several = new Uint8Array(names.length);
    let population = 0, drawn = 0;
    of.forEach((list, row) => {
      if (!list.length || data.kinds[row] === "x") return;
      population++;
      if (inside.has(row)) drawn++;
      for (const k of list) {
        all[k]++;
        if (inside.has(row)) mine[k]++;
        if (first[k] < 0) first[k] = data.series[row];
        else if (first[k] !== data.series[row]) several[k] = 1;
      }
    });
    names.forEach((name, k) => { if (several[k] && all[k] < population) found.push({what, name, k: mine[k], n: drawn, marked: all[k], population, p: mine[k] ? hypergeometric(mine[k], drawn, all[k], population) : 1}); });
  }
  found.sort((a, b) => a.p - b.p);
  let q = 1;
  for (let i = found.length - 1; i >= 0; i--) { q = Math.min(q, found[i].p * found.length / (i + 1)); found[i].q = q; }
  const same = new Map();
  for (const one of found) {
    if (one.k < 2 || one.p >= .05) continue;
    one.rows = rowsWith(one.what, one.name);
    const key = `${one.what} ${one.rows}`;
    if (same.has(key)) same.get(key).names.push(one.name);
    else { one.names = [one.name]; same.set(key, one); }
  }
  return {tested: found.length, good: [...same.values()]};
}

function rowsWith(what, name) {
  const {names, of} = terms().find(group => group.what === what), k = names.indexOf(name);
  return of.flatMap((list, row) => list.includes(k) ? [row] : []);
}

// Known pairs inside a set, of all its pairs; and in the whole map.
function pairsWithin(rows) {
  return known.sources.map((source, k) => {
    let hit = 0;
    for (let i = 0; i < rows.length; i++) for (let j = 0; j < i; j++) if (relations(rows[i], rows[j]).includes(source.name)) hit++;
    let all = 0;
    for (let i = 0; i < source.pairs.length; i += 2) all += rowsOf[source.pairs[i]].length * rowsOf[source.pairs[i + 1]].length;
    return {name: source.name, hit, pairs: rows.length * (rows.length - 1) / 2, all, expected: all / (N * (N - 1) / 2)};
  });
}

function showEnrichment() {
  const {tested, good} = enrichment(everyone), box = $("enrichment");
  box.replaceChildren(...pairsWithin(order).map(one => {
    const line = make("div", null, "term"), fold = one.expected ? one.hit / one.pairs / one.expected : 0;
    line.style.cursor = "default";
    line.append(make("b", `${one.hit} of ${whole(one.pairs)} pairs known`), make("small", `${one.name}; ${one.hit ? `${fold.toPrecision(2)} times` : "chance would give"} ${one.hit ? "what chance would give" : (one.pairs * one.expected).toPrecision(2)}`));
    return line;
  }), ...good.slice(0, 12).map(one => {
    const line = make("div", null, "term"), text = one.names.slice(0, 6).join(", ") + (one.names.length > 6 ? ` and ${one.names.length - 6} more` : "");
    line.dataset.term = one.name;
    line.dataset.p = one.p;
    line.dataset.q = one.q;
    const strong = make("span", `q ${shown(one.q)}`, `chip ${one.q <= data.fdr ? "good" : "none"}`);
    const go = button(text, () => { picked = one.rows; drawScatter(); drawHeat(); say(`${one.name}: its ${picked.length} rows are highlighted.`); });
    line.append(go, " ", strong, make("small", `${one.what}: ${one.k} of ${one.n}, in the map ${one.marked} of ${one.population}; p ${shown(one.p)}`));
    return line;
  }));
  if (!good.length) box.append(make("p", tested ? `Nothing, of ${tested} terms that were tested.` : "The map has no column, and the page no sets, whose terms repeat.", "note"));
  else box.append(make("p", `${tested} terms were tested${everyone.length > order.length ? `, in all ${whole(everyone.length)} of the set` : ""}.`, "note"));
}
