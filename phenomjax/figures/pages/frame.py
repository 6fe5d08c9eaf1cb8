"""The frame of every page: what stands in its head, its look, light and dark, and that the browser
is told to load nothing.
"""

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def part(name: str) -> str:
    """A file of this folder: look.css, theme.js …"""
    return (FOLDER / name).read_text(encoding="utf-8")


def page(title: str, summary: str, body: str, style: str = "", script: str = "") -> str:
    """A page of one file.

    Args:
      title, summary: as text; they are escaped here.
      body: HTML below the head of the page, with an element that has the id `content`.
      style: rules beside the look that all pages share.
      script: that runs when all of the page is there.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<script>{part("theme.js")}</script>
<style>{part("look.css")}{style}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<header>
<div class="brand"><h1>{escape(title)}</h1><p>{escape(summary)}</p></div>
<div class="tools"><button id="theme" type="button" title="Light or dark (t)"
 aria-label="Light or dark">&#9680;</button></div>
</header>
{body}
<script>{part("tables.js")}{script}</script>
</body>
</html>
"""


def scrolled(table: str, label: str) -> str:
    """A table in a frame that scrolls sideways, by the keys too."""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{table}</div>'
    )
