// The views of the page of `maps explore` that zoom: heat map and scatter. Stands on explore.js.
"use strict";
// ---- a canvas that zooms: the unit square is shown from (x, y) on, `scale` times enlarged
function zooming(canvas, area, draw, pointed, clicked) {
  const view = {scale: 1, x: 0, y: 0, most: 64};
  let down = null, moved = false;
  const at = event => {
    const box = canvas.getBoundingClientRect(), a = area();
    return [((event.clientX - box.left - a.left) / a.size + view.x) / view.scale, ((event.clientY - box.top - a.top) / a.size + view.y) / view.scale];
  };
  const clamp = () => {
    view.x = Math.max(0, Math.min(view.scale - 1, view.x));
    view.y = Math.max(0, Math.min(view.scale - 1, view.y));
    canvas.dataset.scale = view.scale;
    draw();
  };
  const zoom = (factor, u = (view.x + .5) / view.scale, v = (view.y + .5) / view.scale) => {
    const scale = Math.max(1, Math.min(view.most, view.scale * factor));
    view.x = u * scale - (u * view.scale - view.x);
    view.y = v * scale - (v * view.scale - view.y);
    view.scale = scale;
    clamp();
  };
  const move = (x, y) => { view.x += x; view.y += y; clamp(); };
  view.reset = () => { view.scale = 1; view.x = view.y = 0; clamp(); };
  canvas.addEventListener("wheel", event => { event.preventDefault(); zoom(Math.exp(-event.deltaY / 300), ...at(event)); }, {passive: false});
  canvas.onpointerdown = event => { down = [event.clientX, event.clientY]; moved = false; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointermove = event => {
    if (down) {
      const x = event.clientX - down[0], y = event.clientY - down[1];
      if (moved || Math.hypot(x, y) > 4) { moved = true; move(-x / area().size, -y / area().size); down = [event.clientX, event.clientY]; }
    }
    tip(event, pointed(...at(event)));
  };
  canvas.onpointerup = event => { if (down && !moved) clicked(...at(event)); down = null; };
  canvas.onpointerleave = () => tip(null, "");
  canvas.onkeydown = event => {
    const steps = {ArrowLeft: [-.1, 0], ArrowRight: [.1, 0], ArrowUp: [0, -.1], ArrowDown: [0, .1]};
    if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "0") view.reset();
    else if (steps[event.key]) move(...steps[event.key]);
    else return;
    event.preventDefault();
  };
  for (const button of canvas.parentElement.querySelectorAll("[data-zoom]"))
    button.onclick = () => button.dataset.zoom === "all" ? view.reset() : zoom(button.dataset.zoom === "in" ? 1.5 : 1 / 1.5);
  return view;
}

function tip(event, text) {
  $("tip").hidden = !text;
  if (!text) return;
  $("tip").textContent = text;
  $("tip").style.left = Math.min(event.clientX + 12, innerWidth - 240) + "px";
  $("tip").style.top = event.clientY + 14 + "px";
}

function context(canvas) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight, pen = canvas.getContext("2d");
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return pen;
}

// ---- heat map
const limit = () => Number($("range").value);

function colour(value) {
  const t = (Math.max(-1, Math.min(1, value / limit())) + 1) / 2 * (RAMP.length - 1), i = Math.min(RAMP.length - 2, Math.floor(t)), f = t - i;
  return `rgb(${RAMP[i].map((from, k) => Math.round(from + f * (RAMP[i + 1][k] - from))).join(",")})`;
}

const heatArea = () => {
  const longest = Math.max(30, ...set.map(row => Math.min(150, 7.4 * data.names[row].length + 12)));
  return {left: longest, top: 4, size: Math.max(60, Math.min($("heat").clientWidth - longest - 4, $("heat").clientHeight - longest - 8))};
};
const heat = zooming($("heat"), heatArea, drawHeat,
  (u, v) => { const pair = pairAt(u, v); if (pair) $("cell").textContent = tell(...pair); return pair ? tell(...pair) : ""; },
  (u, v) => { const pair = pairAt(u, v); if (pair) { choose(order[pair[0]], false); $("cell").textContent = tell(...pair); } });

function pairAt(u, v) {
  const i = Math.floor(v * order.length), j = Math.floor(u * order.length);
  return i >= 0 && j >= 0 && i < order.length && j < order.length ? [i, j] : null;
}

function tell(i, j) {
  const parts = squares.map((square, k) => `${signed(square[i][j])}${squares.length > 1 ? ` (${data.maps[k].name})` : ""}`);
  return `${data.names[order[i]]} and ${data.names[order[j]]}: cosine ${parts.join(", ")}`;
}

// Average linkage, greedily; the order of the leaves brings alike rows together.
function cluster(rows, square) {
  const n = rows.length, groups = rows.map((_, i) => [i]), d = square.map(line => Float32Array.from(line, value => 1 - value)), alive = rows.map((_, i) => i);
  while (alive.length > 1) {
    let best = Infinity, a = 0, b = 1;
    for (let i = 0; i < alive.length; i++) for (let j = i + 1; j < alive.length; j++)
      if (d[alive[i]][alive[j]] < best) { best = d[alive[i]][alive[j]]; a = i; b = j; }
    const [p, q] = [alive[a], alive[b]], [np, nq] = [groups[p].length, groups[q].length];
    for (const r of alive) d[p][r] = d[r][p] = (np * d[p][r] + nq * d[q][r]) / (np + nq);
    // The ends that are most alike meet in the middle.
    const ends = [[groups[p], groups[q]], [[...groups[p]].reverse(), groups[q]], [groups[p], [...groups[q]].reverse()], [[...groups[p]].reverse(), [...groups[q]].reverse()]];
    ends.sort((x, y) => square[y[0].at(-1)][y[1][0]] - square[x[0].at(-1)][x[1][0]]);
    groups[p] = [...ends[0][0], ...ends[0][1]];
    alive.splice(b, 1);
  }
  return n ? groups[alive[0]] : [];
}

function setHeat(rows) {
  set = [...new Set(rows)].slice(0, MAX_SET);
  const square = map => set.map(a => set.map(b => cosine(map, a, b)));
  const all = data.maps.map(square), by = cluster(set, all[current]);
  order = by.map(i => set[i]);
  squares = all.map(one => by.map(i => by.map(j => one[i][j])));
  $("set").value = order.map(row => data.names[row]).join("\n");
  const both = data.maps.length > 1 ? ` Below the diagonal: ${data.maps[0].name}; above: ${data.maps[1].name}.` : "";
  $("heat-caption").textContent = `${order.length} perturbations, alike ones side by side.${both} Turn the wheel or press + to zoom, drag to move.`;
  heat.most = Math.max(4, order.length / 3);
  heat.reset();
}

function drawHeat() {
  const pen = context($("heat")), {left, top, size} = heatArea(), n = order.length, cell = size * heat.scale / n;
  pen.save();
  pen.beginPath();
  pen.rect(left, top, size, size);
  pen.clip();
  const first = [heat.x, heat.y].map(start => Math.floor(start / heat.scale * n)), many = Math.ceil(n / heat.scale) + 1;
  const gap = cell > 8 ? 1 : 0;
  for (let i = Math.max(0, first[1]); i < Math.min(n, first[1] + many); i++) for (let j = Math.max(0, first[0]); j < Math.min(n, first[0] + many); j++) {
    pen.fillStyle = colour(squares[i < j ? squares.length - 1 : 0][i][j]);
    pen.fillRect(left - heat.x * size + j * cell, top - heat.y * size + i * cell, cell - gap + .3, cell - gap + .3);
  }
  pen.restore();
  $("heat").dataset.rows = n;
  if (cell < 7) return;
  pen.font = `${Math.min(12, cell * .9)}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  for (let i = 0; i < n; i++) {
    const y = top - heat.y * size + (i + .5) * cell, x = left - heat.x * size + (i + .5) * cell, name = data.names[order[i]];
    pen.fillStyle = order[i] === chosen ? "#b00020" : "#222";
    pen.textAlign = "right";
    if (y > top && y < top + size) pen.fillText(name, left - 4, y, left - 6);
    if (x > left && x < left + size) {
      pen.save();
      pen.translate(x, top + size + 4);
      pen.rotate(-Math.PI / 2);
      pen.fillText(name, 0, 0, left - 6);
      pen.restore();
    }
  }
}

function drawRamp() {
  const pen = $("ramp").getContext("2d");
  for (let x = 0; x < 160; x++) { pen.fillStyle = colour((x / 79.5 - 1) * limit()); pen.fillRect(x, 0, 1, 12); }
  document.querySelectorAll(".limit").forEach(element => { element.textContent = limit(); });
}

function useNeighbours() {
  const found = data.maps[current].found, take = (key, count) => (found[key] || []).slice(0, count);
  const many = data.kinds.includes("g") ? [10, 5, 5, 3] : [0, 10, 0, 6];
  setHeat([chosen, ...take("similarg", many[0]), ...take("similarc", many[1]), ...take("oppositeg", many[2]), ...take("oppositec", many[3])]);
}

$("use-neighbours").onclick = useNeighbours;
$("range").onchange = () => { drawRamp(); drawHeat(); };
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
  if (rows.length) setHeat(rows);
  const much = rows.length > MAX_SET ? ` The heat map shows the first ${MAX_SET}.` : "";
  $("status").textContent = (missing.length ? `Not in this map: ${missing.slice(0, 8).join(", ")}${missing.length > 8 ? ", ..." : ""}.` : `${rows.length} in the heat map.`) + much;
};

// ---- scatter
const scatterArea = () => ({left: 6, top: 6, size: Math.min($("scatter").clientWidth, $("scatter").clientHeight) - 12});
const scatter = zooming($("scatter"), scatterArea, drawScatter,
  (u, v) => { const row = pointAt(u, v); return row < 0 ? "" : `${data.names[row]} (${KINDS[data.kinds[row]]})`; },
  (u, v) => { const row = pointAt(u, v); if (row >= 0) { choose(row, false); useNeighbours(); } });

function pointAt(u, v) {
  let best = (8 / scatterArea().size / scatter.scale) ** 2, row = -1;
  if (layout) for (let i = 0; i < N; i++) {
    const distance = (layout[2 * i] - u) ** 2 + (layout[2 * i + 1] - v) ** 2;
    if (distance < best) { best = distance; row = i; }
  }
  return row;
}

function drawScatter() {
  if (!layout) return;
  const pen = context($("scatter")), {left, top, size} = scatterArea(), found = data.maps[current].found || {};
  const place = row => [left + (layout[2 * row] * scatter.scale - scatter.x) * size, top + (layout[2 * row + 1] * scatter.scale - scatter.y) * size];
  const r = Math.max(1, Math.min(4, 140 / Math.sqrt(N))) * Math.sqrt(Math.sqrt(scatter.scale));
  pen.save();
  pen.beginPath();
  pen.rect(left - 4, top - 4, size + 8, size + 8);
  pen.clip();
  pen.globalAlpha = .55;
  for (let row = 0; row < N; row++) {
    const [x, y] = place(row);
    pen.fillStyle = COLOURS[data.kinds[row]];
    if (data.kinds[row] === "c") pen.fillRect(x - r, y - r, 2 * r, 2 * r);
    else { pen.beginPath(); pen.arc(x, y, r, 0, 7); pen.fill(); }
  }
  pen.globalAlpha = 1;
  pen.font = "12px system-ui, sans-serif";
  const ring = (row, colour, radius, label) => {
    const [x, y] = place(row);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.lineWidth = 2;
    pen.strokeStyle = colour;
    pen.stroke();
    if (!label) return;
    const right = x > left + size - 90;
    pen.textAlign = right ? "right" : "left";
    pen.lineWidth = 3;
    pen.strokeStyle = "#fff";
    pen.strokeText(data.names[row], x + (right ? -9 : 9), y + 4);
    pen.fillStyle = "#111";
    pen.fillText(data.names[row], x + (right ? -9 : 9), y + 4);
  };
  // Only neighbours that are unusual for this map: in a small one the nearest may be far.
  const map = data.maps[current], unusual = (row, sign) => share(map, cosine(map, chosen, row), sign) <= 0.05;
  for (const kind of "gc") {
    for (const row of found["opposite" + kind] || []) if (unusual(row, -1)) ring(row, "#56b4e9", r + 3);
    for (const row of found["similar" + kind] || []) if (unusual(row, 1)) ring(row, "#e69f00", r + 3);
  }
  ring(chosen, "#000000", r + 5, true);
  pen.restore();
}
