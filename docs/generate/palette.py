"""The colours of the site are those of the map page: reads them there and names them for the theme.

Run by mkdocs-gen-files; writes `assets/palette.css`.
"""

import re
from pathlib import Path

import mkdocs_gen_files

SOURCE = Path("phenomjax/figures/pages/look.css")


def palette(css: str) -> str:
    """The two `:root` blocks of `css`, light and dark, under the theme's names of its schemes."""
    light = re.search(r"^:root \{(.*?)^\}", css, re.MULTILINE | re.DOTALL)
    dark = re.search(r"^:root\[data-theme=dark\] \{(.*?)^\}", css, re.MULTILINE | re.DOTALL)
    if not light or not dark:
        raise ValueError(f"{SOURCE} has no :root block for light or for dark")
    return f":root {{{light[1]}}}\n[data-md-color-scheme=slate] {{{dark[1]}}}\n"


with mkdocs_gen_files.open("assets/palette.css", "w") as file:
    file.write(palette(SOURCE.read_text()))
