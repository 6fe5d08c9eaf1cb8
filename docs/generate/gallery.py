"""Makes the pictures of docs/gallery.md anew, by the commands that stand beside them.

    python -m docs.generate.gallery                  # all: about half an hour on two cores
    python -m docs.generate.gallery --only scan      # the sections whose heading has this word

Reads the page from top to bottom: its ```sh blocks are run at the root of the repository, and a
comment `<!-- picture: FILE -->` before a picture says which file it is made of: a PNG, brought to
at most 1,100 px, 256 colours and 220 kB (`FILE top 40%`: of its upper part), or an HTML page,
photographed in a headless browser (`FILE#NAME`). What commands have finished they do not do again.
A picture of which the page says nothing is an error.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/gallery.md"
WIDTH, MOST = 1100, 220_000  # px, bytes
LANCZOS = Image.Resampling.LANCZOS
STEP = re.compile(
    r"^```sh\n(?P<commands>.*?)^```$"
    r"|<!-- picture: (?P<source>[^\s#]+)(?P<hash>#\S+)?(?: top (?P<top>\d+)%)? -->"
    r"\n!\[[^\]]*\]\((?P<name>[^)]+)\)",
    re.MULTILINE | re.DOTALL,
)


def photograph(page: Path, fragment: str) -> Image.Image:
    """A page of ours as a browser shows it on a laptop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox"],
        )
        tab = browser.new_page(viewport={"width": 1366, "height": 820})
        tab.goto(page.as_uri() + fragment)
        tab.wait_for_timeout(2000)
        picture = Image.open(io.BytesIO(tab.screenshot()))
        browser.close()
    return picture


def keep(source: Path, target: Path, fragment: str = "", top: int = 100) -> None:
    """Writes a small PNG of a figure or of a page."""
    picture = photograph(source, fragment) if source.suffix == ".html" else Image.open(source)
    picture = picture.convert("RGB").crop((0, 0, picture.width, picture.height * top // 100))
    target.parent.mkdir(exist_ok=True)
    for width in (WIDTH, 1000, 860, 720, 600):  # noise takes many bytes
        height = round(picture.height * width / picture.width)
        small = picture if width > picture.width else picture.resize((width, height), LANCZOS)
        small.quantize(256, kmeans=5, dither=Image.Dither.NONE).save(target, optimize=True)
        if target.stat().st_size < MOST:
            break
    print(f"{target.relative_to(ROOT)}: {target.stat().st_size / 1000:.0f} kB")


def run(commands: str) -> None:
    """Runs the commands of a block as a reader would; `python` is this Python."""
    print(commands, end="", flush=True)
    words = re.sub(r"^python ", f"{sys.executable} ", commands, flags=re.MULTILINE)
    subprocess.run(["bash", "-euc", words], cwd=ROOT, check=True)


def sections(text: str, only: str) -> list[str]:
    """The parts of the page below each heading that has the word."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    return [part for part in parts if only.lower() in part.splitlines()[0].lower()]


def main() -> None:
    """Runs the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="a word of the headings")
    only = parser.parse_args().only
    text = PAGE.read_text()
    made = {step["name"] for step in STEP.finditer(text) if step["name"]}
    bare = set(re.findall(r"\]\((assets/gallery/[^)]+)\)", text)) - made
    if bare:
        sys.exit(f"no `<!-- picture: … -->` before {', '.join(sorted(bare))}")
    for part in sections(text, only):
        for step in STEP.finditer(part):
            if step["commands"]:
                run(step["commands"])
            else:
                target = ROOT / "docs" / step["name"]
                keep(ROOT / step["source"], target, step["hash"] or "", int(step["top"] or 100))


if __name__ == "__main__":
    main()
