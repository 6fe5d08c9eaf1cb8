/* Light or dark, of all pages. In the head, before the first paint: a page that is to be dark does not flash. */
const darkness = matchMedia("(prefers-color-scheme: dark)");
let theme = null;
try { theme = localStorage.getItem("theme"); } catch { /* a page from disk may have no storage */ }

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  document.dispatchEvent(new Event("theme"));
}

setTheme(theme || (darkness.matches ? "dark" : "light"));
darkness.onchange = () => { if (!theme) setTheme(darkness.matches ? "dark" : "light"); };
document.addEventListener("click", event => {
  if (!event.target.closest("#theme")) return;
  theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("theme", theme); } catch { /* then until it is closed */ }
  setTheme(theme);
});
