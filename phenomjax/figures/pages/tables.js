/* Tables that sort by the buttons of their heads: numbers as numbers, what has no value last. The key t changes light and dark. */
document.querySelectorAll("table.data").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const value = (row, i) => {
    const text = (row.cells[i] || row.cells[0]).textContent.trim(), number = parseFloat(text.replaceAll(",", ""));
    return text === "-" || text === "" ? null : Number.isNaN(number) ? text : number;
  };
  heads.forEach((head, i) => head.querySelector("button")?.addEventListener("click", () => {
    const sign = head.ariaSort === "ascending" ? -1 : 1;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const order = (one, other) => {
      const a = value(one, i), b = value(other, i);
      if (a === null || b === null) return (a === null) - (b === null);
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      return sign * (a < b ? -1 : a > b ? 1 : 0);
    };
    body.append(...[...body.rows].sort(order));
  }));
});
document.addEventListener("keydown", event => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "checkbox";
  if (event.key === "t" && !event.ctrlKey && !event.metaKey && !event.altKey && !typing) document.getElementById("theme").click();
});
