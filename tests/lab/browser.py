"""A headless browser for tests of pages, and what holds of every page of ours."""

import os
import shutil

import pytest

DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
# Texts whose contrast with what is behind them is below WCAG's 4.5: [ratio, text].
FAINT = """
() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const colour = text => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = text;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const light = rgb => rgb.slice(0, 3).map(c => c / 255)
    .map(c => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [.2126, .7152, .0722][i], 0);
  const behind = one => {
    for (; one; one = one.parentElement) {
      const found = colour(getComputedStyle(one).backgroundColor);
      if (found[3] === 255) return found;
    }
    return [255, 255, 255];
  };
  const words = one => [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll("body *")]
    .filter(one => !/^(SCRIPT|STYLE|OPTION)$/.test(one.tagName) && words(one))
    .filter(one => one.checkVisibility()).map(one => {
      const style = getComputedStyle(one), back = light(behind(one));
      const front = light(colour(one.closest("svg") ? style.fill : style.color));
      const ratio = (Math.max(front, back) + .05) / (Math.min(front, back) + .05);
      return [ratio, one.textContent.trim().slice(0, 40)];
    }).filter(([ratio]) => ratio < 4.5);
}
"""
# What a reader who does not see, or has no mouse, would miss: pictures without words, fields and
# buttons without a name, frames that scroll but take no focus, levels of headings left out.
MUTE = """
() => {
  const named = one => one.ariaLabel || one.textContent.trim() || one.title
    || one.getAttribute("aria-labelledby") || one.closest("label")?.textContent.trim();
  const all = list => [...document.querySelectorAll(list)].filter(one => one.checkVisibility());
  const levels = all("h1, h2, h3, h4").map(one => +one.tagName[1]);
  return [
    ...all("img:not([alt]), img[alt='']"),
    ...all("svg").filter(one => !one.ariaLabel && one.ariaHidden !== "true"),
    ...all("button, input, select, textarea, a").filter(one => !named(one)),
    ...all("*").filter(one => one.scrollWidth > one.clientWidth + 1 && one.tabIndex < 0
      && /auto|scroll/.test(getComputedStyle(one).overflowX)),
    ...[document.documentElement].filter(one => !one.lang || levels[0] !== 1),
    ...levels.filter((level, i) => level > (levels[i - 1] ?? 0) + 1).map(level => `h${level}`),
  ].map(one => one.outerHTML?.slice(0, 120) ?? one);
}
"""


def browser_path() -> str:
    """The browser of PHENOMJAX_CHROMIUM, or of the PATH; skips where there is none."""
    pytest.importorskip(
        "playwright.sync_api",
        reason="needs playwright, which drives the browser: pip install playwright",
    )
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    path = os.environ.get("PHENOMJAX_CHROMIUM") or next(
        filter(None, map(shutil.which, names)), None
    )
    if not path:
        pytest.skip(
            "needs a Chromium or Chrome: apt-get install chromium, or name one in"
            " PHENOMJAX_CHROMIUM"
        )
    return path


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests of a file."""
    path = browser_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser):
    """Opens a page; afterwards nothing was wrong on its console, and nothing was loaded."""
    problems, requests = [], []

    def opening(path, address="", viewport=DESK, **settings):
        page = browser.new_page(viewport=viewport, **settings)
        page.on(
            "console",
            lambda message: (
                problems.append(message.text) if message.type in ("error", "warning") else None
            ),
        )
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri() + address)
        return page

    yield opening
    for context in browser.contexts:
        context.close()
    assert problems == []
    assert {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}


def faults(page) -> dict[str, list]:
    """What is wrong with how a page looks and is read: nothing, of ours."""
    found = {
        "scrolls sideways": [page.evaluate(OVERFLOW)],
        "faint": page.evaluate(FAINT),
        "mute": page.evaluate(MUTE),
    }
    return {name: list(filter(None, one)) for name, one in found.items() if any(one)}
