// The chosen perturbation, in the page of `maps explore`: facts, warnings, links, known partners, doses, features, pictures.
"use strict";
// ---- known pairs, between genes or targets
const rowsOf = known.names.map(() => []), ofPairs = new Map();
known.rows.forEach((names, row) => names.forEach(name => rowsOf[name].push(row)));
const partnersOf = known.names.map(() => []);
known.sources.forEach((source, k) => {
  for (let i = 0; i < source.pairs.length; i += 2) {
    const [a, b] = source.pairs.slice(i, i + 2).sort((x, y) => x - y), key = a * known.names.length + b;
    if (!ofPairs.has(key)) { ofPairs.set(key, []); partnersOf[a].push(b); partnersOf[b].push(a); }
    ofPairs.get(key).push(k);
  }
});

// What is known of two rows: a target that they share, and the sources that name them as a pair.
function relations(a, b) {
  const out = [], mine = known.rows[a] || [], other = known.rows[b] || [];
  const shared = (known.targets[a] || []).filter(name => (known.targets[b] || []).includes(name));
  if (shared.length && data.names[a] !== data.names[b]) out.push(data.kinds[a] !== data.kinds[b] ? "is its target" : data.kinds[a] === "g" ? "same gene" : "same target");
  const found = new Set();
  for (const one of mine) for (const two of other) for (const k of ofPairs.get(Math.min(one, two) * known.names.length + Math.max(one, two)) || []) found.add(k);
  return [...out, ...[...found].sort().map(k => known.sources[k].name)];
}

function partners(row) {
  const out = new Set();
  for (const name of known.rows[row] || []) for (const other of [...partnersOf[name], ...(known.targets[row].includes(name) ? [name] : [])]) rowsOf[other].forEach(r => out.add(r));
  out.delete(row);
  return [...out];
}

// ---- facts
const toxic = row => data.cells !== null && data.cells.share[row] !== null && data.kinds[row] !== "x" && data.cells.share[row] < data.cells.below;

function warnings(row) {
  const out = [], score = data.scores[0], cells = data.cells;
  if (toxic(row)) out.push([`Likely toxic: ${whole(cells.values[row])} cells a well, ${percent(cells.share[row])} ${cells.of}. Few cells change every feature, so its neighbours may share toxicity rather than a mechanism.`, "bad"]);
  if (score && score.q[row] !== null && score.q[row] > data.fdr) out.push([`Not active: it is not told apart (${score.label} q ${shown(score.q[row])}, bound ${data.fdr}). Its neighbours may be chance.`, ""]);
  if (data.replicates && data.replicates[row] === 1) out.push(["One replicate: nothing tells what is noise.", ""]);
  if (data.maps[current].length[row] === 0) out.push(["Its profile is zero in all features: it has no direction, and no neighbours.", "bad"]);
  return out;
}

function showCard() {
  const row = chosen, kind = data.kinds[row], map = data.maps[current];
  $("kind").textContent = KINDS[kind];
  $("kind").className = `chip ${kind === "c" ? "warn" : kind === "x" ? "none" : ""}`;
  $("chosen").textContent = head(row);
  const about = [];
  if (head(row) !== data.names[row]) about.push(["", data.names[row]]);
  if (targetText(row)) about.push([kind === "g" ? "guide" : "target", targetText(row)]);
  if (data.doses[row]) about.push(["dose", data.doses[row]]);
  data.columns.forEach((column, k) => {
    if (column.kind === "text" && /mechanism|moa|mode.?of.?action|pathway|complex|arm$|class$/i.test(column.label) && cell(k, row)) about.push([column.label, cell(k, row).replaceAll("|", ", ")]);
  });
  $("about").replaceChildren(...about.flatMap(([what, text], i) => [i ? " \u00b7 " : "", what ? `${what} ` : "", make(what ? "b" : "span", text)]));
  $("warnings").replaceChildren(...warnings(row).map(([text, className]) => { const one = make("p", text, `warning ${className}`); one.setAttribute("role", "note"); return one; }));
  const facts = data.scores.filter(one => one.q[row] !== null || one.values[row] !== null).map(one => [one.label, one.values[row] === null ? "\u2013" : one.values[row].toFixed(2),
    one.q[row] === null ? "" : ` q ${shown(one.q[row])}`, one.question]);
  if (data.replicates && data.replicates[row] !== null) facts.push(["replicates", data.replicates[row], "", "profiles that went into this row"]);
  if (data.cells && data.cells.values[row] !== null) facts.push(["cells a well", whole(data.cells.values[row]), data.cells.share[row] === null ? "" : ` ${percent(data.cells.share[row])} of controls`.replace("controls", /control/.test(data.cells.of.split(" (")[0]) ? "controls" : "the median"), data.cells.of]);
  if (map.length[row] !== null) {
    const longer = map.length.filter(value => value > map.length[row]).length / N;
    facts.push(["profile length", map.length[row].toPrecision(3), ` longer than ${percent(Math.max(0, 1 - longer - 1 / N))}`, "how far from the middle of the map: a strong phenotype is long"]);
  }
  const partnered = known.sources.length ? partners(row).length : 0;
  if (known.sources.length) facts.push(["known partners", partnered, " in this map", "pairs of " + known.sources.map(source => source.name).join(", ")]);
  $("facts").replaceChildren(...facts.map(([name, value, more, hint]) => {
    const box = make("div"), number = make("dd", value);
    if (hint) box.title = hint;
    if (more) number.append(make("small", more));
    box.append(make("dt", name), number);
    return box;
  }));
  $("links").replaceChildren(...links(row).map(([text, address]) => {
    const link = make("a", `${text} \u2197`);
    link.href = address;
    link.target = "_blank";
    link.rel = "noopener noreferrer";
    return link;
  }));
  $("only").hidden = !(data.kinds.includes("g") && data.kinds.includes("c"));
  document.querySelector("[data-side=known]").hidden = !known.sources.length && !known.targets.some(list => list.length);
}

// Where to read on: genes and targets at NCBI, compounds at PubChem by id, else by name.
function links(row) {
  const at = name => data.links[name] < 0 ? "" : cell(data.links[name], row), out = [];
  const ncbi = (text, term) => [text, `https://www.ncbi.nlm.nih.gov/gene/${term}`];
  const bySymbol = symbol => ncbi(`NCBI ${symbol}`, `?term=${encodeURIComponent(`${symbol}[sym] AND ${data.organism}[orgn]`)}`);
  const entrez = /^\d+$/.test(at("entrez")) ? at("entrez") : "";
  if (data.kinds[row] === "g") out.push(entrez ? ncbi("NCBI Gene", entrez) : bySymbol(data.genes[row] || data.names[row]));
  if (data.kinds[row] !== "c") return data.kinds[row] === "x" ? [] : out;
  const pubchem = "https://pubchem.ncbi.nlm.nih.gov/";
  if (/^\d+$/.test(at("pubchem"))) out.push([`PubChem ${at("pubchem")}`, `${pubchem}compound/${at("pubchem")}`]);
  else if (/^[A-Z]{14}-[A-Z]{10}-[A-Z]$/.test(at("inchikey"))) out.push(["PubChem by InChIKey", `${pubchem}compound/${at("inchikey")}`]);
  else out.push(["PubChem by name", `${pubchem}#query=${encodeURIComponent(people(row) || data.names[row])}`]);
  const genes = targets(row).slice(0, 8);
  return [...out, ...(entrez && genes.length === 1 ? [ncbi(`NCBI ${genes[0]}`, entrez)] : genes.map(bySymbol))];
}

function showDetails() {
  showDoses();
  fillAgainst();
  showFeatures();
  showPictures();
}

// ---- doses of one compound, as lines
const doseOf = row => parseFloat(data.doses[row]);

function showDoses() {
  const rows = [...data.series.keys()].filter(row => data.series[row] === data.series[chosen] && doseOf(row) > 0).sort((a, b) => doseOf(a) - doseOf(b)), map = data.maps[current];
  $("doses").hidden = new Set(rows.map(doseOf)).size < 2;
  if ($("doses").hidden) return;
  const lines = [["profile length", row => map.length[row], 0], [`cosine with ${data.doses[chosen] || "this one"}`, row => cosine(map, chosen, row), null]];
  if (data.scores[0]) lines.push([data.scores[0].label, row => data.scores[0].values[row], 0]);
  if (data.cells) lines.push(["cells a well", row => data.cells.values[row], 0]);
  $("dose-lines").replaceChildren(...lines.map(line => doseLine(rows, ...line)));
}

function doseLine(rows, name, value, floor) {
  const make2 = (tag, attributes, text) => { const one = document.createElementNS("http://www.w3.org/2000/svg", tag); for (const key in attributes) one.setAttribute(key, attributes[key]); if (text) one.textContent = text; return one; };
  const points = rows.map(row => [Math.log10(doseOf(row)), value(row), row]).filter(([, y]) => y !== null && isFinite(y)), figure = make("figure"), ys = points.map(point => point[1]);
  const least = Math.min(floor ?? Infinity, ...ys), most = Math.max(...ys, least + 1e-9), xs = points.map(point => point[0]), W = 200, H = 92;
  const x = at => 8 + (W - 16) * (at - Math.min(...xs)) / Math.max(1e-9, Math.max(...xs) - Math.min(...xs)), y = at => H - 18 - (H - 30) * (at - least) / (most - least);
  const svg = make2("svg", {viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${name} by dose: ${points.map(([, at, row]) => `${data.doses[row]}: ${at.toPrecision(3)}`).join(", ")}`});
  svg.append(make2("line", {x1: 0, x2: W, y1: y(least), y2: y(least)}), make2("path", {d: points.map(([at, up], i) => `${i ? "L" : "M"}${x(at)} ${y(up)}`).join("")}),
    make2("text", {x: 0, y: 8}, most.toPrecision(3)), make2("text", {x: 0, y: H - 3}, data.doses[points[0]?.[2]] || ""), make2("text", {x: W, y: H - 3, "text-anchor": "end"}, data.doses[points.at(-1)?.[2]] || ""));
  for (const [at, up, row] of points) {
    const dot = make2("circle", {cx: x(at), cy: y(up), r: 4.5, class: row === chosen ? "now" : ""});
    dot.append(make2("title", {}, `${data.doses[row]}: ${up.toPrecision(3)}`));
    dot.onclick = () => { choose(row); useNeighbours(); };
    svg.append(dot);
  }
  figure.append(make("figcaption", name), svg);
  return figure;
}

// ---- features and channels that differ
let codes = null;
function fillAgainst() {
  if (!data.features) return;
  const rows = [...new Set([..."gc"].flatMap(kind => data.maps[current].found["similar" + kind] || []))].slice(0, 20);
  $("against").replaceChildren(...[-1, ...rows].map(row => { const one = make("option", row < 0 ? "controls" : title(row)); one.value = row; return one; }));
  if (!/control/.test(data.features.unit)) $("against").firstChild.textContent = "the median perturbation";
}

function showFeatures() {
  const about = data.features;
  $("features-panel").hidden = !about;
  if (!about) return;
  codes = codes || new Int8Array(bytes($("features").textContent || "").buffer);
  const F = about.names.length, other = Number($("against").value), z = new Float32Array(F);
  const value = code => Math.sign(code) * (code / about.steps) ** 2;
  for (let k = 0; k < F; k++) z[k] = value(codes[chosen * F + k]) - (other < 0 ? 0 : value(codes[other * F + k]));
  const order = [...z.keys()].sort((a, b) => Math.abs(z[b]) - Math.abs(z[a])).filter(k => z[k] !== 0).slice(0, 12), most = Math.max(...order.map(k => Math.abs(z[k])), 1e-9);
  $("feature-list").replaceChildren(...order.map(k => {
    const line = make("li", null, z[k] < 0 ? "less" : ""), scale = make("span", null, "scale"), bar = make("i");
    bar.style.width = `${100 * Math.abs(z[k]) / most}%`;
    scale.append(bar);
    const end = Math.abs(codes[chosen * F + k]) === 127 && other < 0 ? (z[k] < 0 ? "<" : ">") : "";
    line.append(make("span", about.names[k].replaceAll("_", " ")), scale, make("b", end + (z[k] < 0 ? "\u2212" : "+") + Math.abs(z[k]).toFixed(1)));
    return line;
  }));
  // Mean of |difference| over the features of a compartment and a channel.
  const rows = about.compartments.length ? about.compartments : ["all"], sums = rows.map(() => [...about.channels, ""].map(() => [0, 0]));
  about.groups.forEach(([compartment, ...channels], k) => {
    const at = about.compartments.length ? compartment : 0;
    if (at < 0) return;
    for (const channel of channels.length ? channels : [about.channels.length]) { sums[at][channel][0] += Math.abs(z[k]); sums[at][channel][1]++; }
  });
  const heads = about.compartments.length ? [...about.channels, "shape \u2026"] : about.channels, means = sums.map(line => line.map(([sum, n]) => n ? sum / n : null)), top = Math.max(1e-9, ...means.flat());
  const head = make("tr"), names = make("thead");
  head.append(make("th"), ...rows.map(text => make("th", text)));
  names.append(head);
  const body = make("tbody");
  body.append(...heads.map((channel, j) => {
    const line = make("tr");
    line.append(make("th", channel), ...rows.map((_, i) => {
      const value = means[i][j], one = make("td", value === null ? "" : value.toFixed(1));
      if (value !== null) { one.style.background = `color-mix(in srgb, var(--alike) ${Math.round(75 * value / top)}%, transparent)`; one.title = `${rows[i]}, ${channel}: ${sums[i][j][1]} features, mean |difference| ${value.toFixed(2)}`; }
      return one;
    }));
    return line;
  }));
  $("parts").replaceChildren(names, body);
  $("parts").hidden = !about.channels.length && !about.compartments.length;
  $("features-note").textContent = `In ${about.unit}. Squares: mean of the absolute differences of a compartment and channel.${about.left_out ? ` ${about.left_out} features that differ least are not in the page.` : ""}`;
}

$("against").onchange = showFeatures;

function showPictures() {
  const own = data.thumbnails[chosen] || [];
  $("pictures-panel").hidden = !data.channels;
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
  $("pictures").replaceChildren(make("p", first, "note"), ...own.map(figure), ...controls);
}
