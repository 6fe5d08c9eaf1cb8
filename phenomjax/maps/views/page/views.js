// The views of the page of `maps explore` that zoom: heat map and scatter.
"use strict";
// ---- a canvas that zooms: the unit square is shown from (x, y) on, `scale` times enlarged
function zooming(canvas, area, draw, pointed, clicked, lassoed = null) {
  const view = {scale: 1, x: 0, y: 0, most: 64, lasso: false, path: []};
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
  canvas.onpointerdown = event => {
    down = [event.clientX, event.clientY];
    moved = false;
    view.path = lassoed && (view.lasso || event.shiftKey) ? [at(event)] : [];
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = event => {
    if (down) {
      const x = event.clientX - down[0], y = event.clientY - down[1];
      if (moved || Math.hypot(x, y) > 4) {
        moved = true;
        if (view.path.length) { view.path.push(at(event)); draw(false); }
        else move(-x / area().size, -y / area().size);
        down = [event.clientX, event.clientY];
      }
    }
    tip(event, view.path.length && down ? "" : pointed(...at(event)));
  };
  canvas.onpointerup = event => {
    const path = view.path;
    view.path = [];
    if (down && !moved) clicked(...at(event));
    else if (down && path.length > 2) lassoed(path);
    down = null;
  };
  canvas.onpointercancel = () => { down = null; view.path = []; draw(); };
  canvas.onpointerleave = () => { tip(null, ""); if (!down) pointed(-9, -9); };
  canvas.onkeydown = event => {
    const steps = {ArrowLeft: [-.1, 0], ArrowRight: [.1, 0], ArrowUp: [0, -.1], ArrowDown: [0, .1]};
    if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "0") view.reset();
    else if (steps[event.key]) move(...steps[event.key]);
    else return;
    event.preventDefault();
  };
  for (const one of canvas.closest("section").querySelectorAll("[data-zoom]"))
    one.onclick = () => one.dataset.zoom === "all" ? view.reset() : zoom(one.dataset.zoom === "in" ? 1.5 : 1 / 1.5);
  return view;
}

function tip(event, text) {
  $("tip").hidden = !text;
  if (!text) return;
  $("tip").textContent = text;
  const box = $("tip").getBoundingClientRect();
  $("tip").style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8)) + "px";
  $("tip").style.top = (event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 10 : event.clientY + 18) + "px";
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

const FONT = "12px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const dark = () => document.documentElement.dataset.theme === "dark";
const along = (ramp, t) => {
  const at = Math.max(0, Math.min(1, t)) * (ramp.length - 1), i = Math.min(ramp.length - 2, Math.floor(at)), f = at - i;
  return `rgb(${ramp[i].map((from, k) => Math.round(from + f * (ramp[i + 1][k] - from))).join(",")})`;
};

// ---- heat map
const RAMPS = {light: [[5, 48, 97], [67, 147, 195], [209, 229, 240], [247, 247, 247], [253, 219, 199], [214, 96, 77], [103, 0, 31]],
  dark: [[150, 205, 255], [62, 130, 190], [36, 66, 98], [34, 40, 47], [98, 50, 42], [205, 92, 70], [255, 176, 140]]};
const limit = () => Number($("range").value);
const colour = value => along(RAMPS[dark() ? "dark" : "light"], (Math.max(-1, Math.min(1, value / limit())) + 1) / 2);

// Room for the longest name; where it would take more than two fifths of the width, all are written smaller.
const heatNames = () => {
  const pen = $("heat").getContext("2d"), most = .42 * $("heat").clientWidth;
  pen.font = FONT;
  const longest = Math.max(30, ...set.map(row => pen.measureText(title(row)).width + 10));
  return {room: Math.min(longest, most), shrink: Math.min(1, most / longest)};
};
const heatArea = () => {
  const {room} = heatNames();
  return {left: room, top: 2, size: Math.max(60, Math.min($("heat").clientWidth - room - 2, $("heat").clientHeight - room - 6))};
};
const heat = zooming($("heat"), heatArea, drawHeat,
  (u, v) => { const pair = pairAt(u, v); if (pair) $("cell").textContent = tell(...pair); return pair ? tell(...pair) : ""; },
  (u, v) => { const pair = pairAt(u, v); if (pair) { choose(order[pair[0]]); drawHeat(); $("cell").textContent = tell(...pair); } });

function pairAt(u, v) {
  const i = Math.floor(v * order.length), j = Math.floor(u * order.length);
  return i >= 0 && j >= 0 && i < order.length && j < order.length ? [i, j] : null;
}

function tell(i, j) {
  const parts = squares.map((square, k) => `${signed(square[i][j])}${squares.length > 1 ? ` (${data.maps[k].name})` : ""}`);
  const said = i === j ? [] : relations(order[i], order[j]);
  return `${title(order[i])} and ${title(order[j])}: cosine ${parts.join(", ")}${said.length ? `; ${said.join(", ")}` : ""}`;
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

function drawHeat() {
  if (!$("heat").clientWidth) return;
  const pen = context($("heat")), {left, top, size} = heatArea(), {shrink} = heatNames(), n = order.length, cell = size * heat.scale / n;
  pen.save();
  pen.beginPath();
  pen.rect(left, top, size, size);
  pen.clip();
  const first = [heat.x, heat.y].map(start => Math.floor(start / heat.scale * n)), many = Math.ceil(n / heat.scale) + 1;
  const gap = cell > 8 ? 1 : 0;
  let dots = false;
  for (let i = Math.max(0, first[1]); i < Math.min(n, first[1] + many); i++) for (let j = Math.max(0, first[0]); j < Math.min(n, first[0] + many); j++) {
    const x = left - heat.x * size + j * cell, y = top - heat.y * size + i * cell, value = squares[i < j ? squares.length - 1 : 0][i][j];
    pen.fillStyle = colour(value);
    pen.fillRect(x, y, cell - gap + .3, cell - gap + .3);
    if (i !== j && cell > 5 && relations(order[i], order[j]).length) {
      dots = true;
      pen.fillStyle = Math.abs(value / limit()) > .55 !== dark() ? "#fff" : "#111";
      pen.beginPath();
      pen.arc(x + cell / 2, y + cell / 2, Math.min(3, cell / 5), 0, 7);
      pen.fill();
    }
  }
  pen.restore();
  $("dot-note").hidden = !dots;
  $("heat").dataset.rows = n;
  if (cell < 7) return;
  const strong = new Set(order.every(row => picked.includes(row)) ? [] : picked);
  pen.font = FONT.replace("12px", `${Math.min(12 * shrink, cell * .9)}px`);
  pen.textBaseline = "middle";
  for (let i = 0; i < n; i++) {
    const y = top - heat.y * size + (i + .5) * cell, x = left - heat.x * size + (i + .5) * cell;
    pen.fillStyle = order[i] === chosen ? ink("accent") : strong.has(order[i]) ? ink("alike") : ink("ink");
    pen.textAlign = "right";
    if (y > top && y < top + size) pen.fillText(title(order[i]), left - 5, y);
    if (x > left && x < left + size) {
      pen.save();
      pen.translate(x, top + size + 5);
      pen.rotate(-Math.PI / 2);
      pen.fillText(title(order[i]), 0, 0);
      pen.restore();
    }
  }
}

function drawRamp() {
  const pen = $("ramp").getContext("2d");
  for (let x = 0; x < 160; x++) { pen.fillStyle = colour((x / 79.5 - 1) * limit()); pen.fillRect(x, 0, 1, 10); }
  document.querySelectorAll(".limit").forEach(element => { element.textContent = limit(); });
}

$("range").onchange = () => { drawRamp(); drawHeat(); };
$("save-heat").onclick = () => save("heat_map.csv", [["map", "name", ...order.map(row => data.names[row])],
  ...squares.flatMap((square, k) => square.map((line, i) => [data.maps[k].name, data.names[order[i]], ...line.map(value => value.toFixed(5))]))]);

// ---- scatter
let picked = [], shownAlone = null;  // what stands out: a set, or a group of the legend under the pointer
const points = document.createElement("canvas");  // all points, so that a ring more does not draw 100,000 again
const mixed = new Set(data.kinds).size > 1;  // genes are round, compounds square
const scatterArea = () => ({left: 6, top: 6, size: Math.min($("scatter").clientWidth, $("scatter").clientHeight) - 12});
const scatter = zooming($("scatter"), scatterArea, drawScatter, (u, v) => {
  const row = pointAt(u, v);
  point(row);
  return row < 0 ? "" : [both(row), [KINDS[data.kinds[row]], targetText(row), data.doses[row]].filter(Boolean).join(" \u00b7 "), told(row)].filter(Boolean).join("\n");
}, (u, v) => { const row = pointAt(u, v); if (row >= 0) { choose(row); useNeighbours(); } else if (picked.length) { picked = []; drawScatter(); } }, path => {
  lassoing(false);
  pick([...data.names.keys()].filter(row => within(layout[2 * row], layout[2 * row + 1], path)), "Lasso");
  drawScatter();
});

function within(x, y, path) {
  let inside = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [ax, ay] = path[i], [bx, by] = path[j];
    if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

function lassoing(on) {
  scatter.lasso = on;
  $("lasso").setAttribute("aria-pressed", on);
  $("scatter").style.touchAction = on ? "none" : "";
}

$("lasso").onclick = () => lassoing(!scatter.lasso);

function pointAt(u, v) {
  let best = (8 / scatterArea().size / scatter.scale) ** 2, row = -1;
  if (layout) for (let i = 0; i < N; i++) {
    const distance = (layout[2 * i] - u) ** 2 + (layout[2 * i + 1] - v) ** 2;
    if (distance < best) { best = distance; row = i; }
  }
  return row;
}

function point(row) {
  if (row === hovered) return;
  hovered = row;
  drawScatter(false);
}

function drawScatter(again = true) {
  if (!layout || !$("scatter").clientWidth) return;
  let pen = context($("scatter"));
  const {left, top, size} = scatterArea(), found = data.maps[current].found || {}, front = pen;
  const place = row => [left + (layout[2 * row] * scatter.scale - scatter.x) * size, top + (layout[2 * row + 1] * scatter.scale - scatter.y) * size];
  const r = Math.max(1, Math.min(5, 90 / Math.sqrt(N))) * Math.sqrt(Math.sqrt(scatter.scale)), strong = new Set(shownAlone || picked), some = strong.size > 0;
  if (again) { points.width = $("scatter").width; points.height = $("scatter").height; pen = points.getContext("2d"); pen.setTransform(front.getTransform()); }
  pen.save();
  pen.beginPath();
  pen.rect(left - 5, top - 5, size + 10, size + 10);
  pen.clip();
  const dot = row => {
    const [x, y] = place(row);
    pen.fillStyle = paint.of(row);
    if (mixed && data.kinds[row] === "c" || N > 20000) pen.fillRect(x - r, y - r, 2 * r, 2 * r);
    else { pen.beginPath(); pen.arc(x, y, r, 0, 7); pen.fill(); }
  };
  // What has no value lies below what has one.
  if (again) for (const above of [false, true]) for (let row = 0; row < N; row++) {
    if (above !== (some ? strong.has(row) : paint.known(row))) continue;
    pen.globalAlpha = some && !above ? .15 : paint.known(row) ? .78 : .4;
    dot(row);
  }
  pen.restore();
  pen = front;
  pen.save();
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.drawImage(points, 0, 0);
  pen.restore();
  pen.save();
  pen.beginPath();
  pen.rect(left - 5, top - 5, size + 10, size + 10);
  pen.clip();
  pen.font = FONT;
  const ring = (row, colour, radius, width = 2) => {
    const [x, y] = place(row);
    pen.beginPath();
    pen.arc(x, y, radius, 0, 7);
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.stroke();
  };
  const name = row => {
    const [x, y] = place(row), text = title(row), wide = pen.measureText(text).width, right = x + 12 + wide > left + size;
    pen.textAlign = right ? "right" : "left";
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    pen.strokeStyle = ink("panel");
    const at = right ? Math.max(x - 10, left + wide) : x + 10;
    pen.strokeText(text, at, y + 4);
    pen.fillStyle = ink("ink");
    pen.fillText(text, at, y + 4);
  };
  // Only neighbours that are unusual for this map: in a small one the nearest may be far.
  const map = data.maps[current], unusual = (row, sign) => share(map, cosine(map, chosen, row), sign) <= 0.05;
  for (const kind of "gc") {
    for (const row of found["opposite" + kind] || []) if (unusual(row, -1)) ring(row, ink("opposite"), r + 3);
    for (const row of found["similar" + kind] || []) if (unusual(row, 1)) ring(row, ink("alike"), r + 3);
  }
  ring(chosen, ink("ink"), r + 5, 2.5);
  name(chosen);
  if (hovered >= 0 && hovered !== chosen) { ring(hovered, ink("accent"), r + 5, 2.5); name(hovered); }
  if (scatter.path.length > 1) {
    pen.beginPath();
    scatter.path.forEach(([u, v]) => pen.lineTo(left + (u * scatter.scale - scatter.x) * size, top + (v * scatter.scale - scatter.y) * size));
    pen.closePath();
    pen.globalAlpha = .12;
    pen.fillStyle = pen.strokeStyle = ink("accent");
    pen.fill();
    pen.globalAlpha = 1;
    pen.lineWidth = 1.5;
    pen.stroke();
  }
  pen.restore();
}
