/* Which runs are drawn; the one that is pointed at, in the table or a figure, stands out, with its value. */
const groups = i => document.querySelectorAll(`svg .run${i}`);
const boxes = [...document.querySelectorAll("tbody input")];
const name = i => boxes.find(box => box.value === i).parentElement.textContent.trim();
const show = box => groups(box.value).forEach(group => group.classList.toggle("off", !box.checked));
const look = i => {
  document.body.classList.toggle("looking", i !== null);
  document.querySelectorAll(".looked").forEach(group => group.classList.remove("looked"));
  if (i !== null) groups(i).forEach(group => group.classList.add("looked"));
};
boxes.forEach(box => {
  box.onchange = () => show(box);
  const row = box.closest("tr");
  row.onmouseenter = row.onfocus = box.onfocus = () => look(box.value);
  row.onmouseleave = box.onblur = () => look(null);
});
document.querySelectorAll("[data-all]").forEach(button => {
  button.onclick = () => boxes.forEach(box => { box.checked = button.dataset.all === "yes"; show(box); });
});

/* Of a curve its places, as the path has them, and the steps and values that they stand for. */
const points = group => {
  const places = group.lastElementChild.getAttribute("d").slice(1).split("L").map(place => place.split(" ").map(Number));
  const steps = group.dataset.steps.split(" ").map(Number), values = group.dataset.values.split(" ");
  return places.map(([x, y], k) => ({x, y, step: steps[k], value: values[k]}));
};

const tip = document.getElementById("tip");
document.querySelectorAll("svg").forEach(svg => {
  const leave = () => { tip.hidden = true; svg.querySelector("circle")?.remove(); look(null); };
  svg.onpointerleave = leave;
  svg.onpointermove = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    let best = null;
    svg.querySelectorAll("g[data-values]:not(.off)").forEach(group => {
      group.points ??= points(group);
      for (const {x, y, step, value} of group.points) {
        const distance = Math.hypot(x - at.x, y - at.y);
        if (!best || distance < best.distance) best = {distance, x, y, step, value, group};
      }
    });
    leave();
    if (!best || best.distance > 40) return;
    const dot = document.createElementNS(svg.namespaceURI, "circle");
    Object.entries({cx: best.x, cy: best.y, r: 4}).forEach(([name, number]) => dot.setAttribute(name, number));
    best.group.append(dot);
    look(best.group.dataset.run);
    tip.textContent = `${name(best.group.dataset.run)}\nstep ${best.step.toLocaleString("en")}: ${best.value}`;
    tip.hidden = false;
    tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
    tip.style.top = `${Math.max(event.clientY - tip.offsetHeight - 10, 4)}px`;
  };
});
