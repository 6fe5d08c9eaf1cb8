"""What a page says on GitHub and what it says on the site: the hook of mkdocs.yml.

Pages of docs/ link to files of the repository by relative paths, so that both readings work. On the
site a picture from outside docs/ is brought along, and any other file is a link to the repository.
A path that is not there ends the build. Comments that guide the tests of the pages are taken out.
The search shows what a reader can do before what a programmer can import.
"""

import os
import re
from pathlib import Path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from docs.generate.check_links import anchors

LINK = re.compile(r"(!?)\[((?:[^\[\]]|!?\[[^\[\]]*\](?:\([^()]*\))?)*)\]\(([^()\s]+)\)")
PICTURES = (".png", ".svg", ".jpg", ".gif")
RANKS = {  # pages that begin so: what their matches count in the search, others 1
    ("start/", "how-to/", "reference/configuration"): 1.25,
    ("reference/api/",): 0.1,
}


def on_page_content(html, page, config, files):
    """Drawings stand in the page itself, so that they follow its light and dark."""

    def drawing(match):
        path = Path(config.docs_dir, os.path.dirname(page.file.src_uri), match[1])
        return (
            f'<div class="drawing" tabindex="0">{path.read_text()}</div>'
            if path.exists()
            else match[0]
        )

    return re.sub(r'<img [^>]*src="([^":]+\.svg)"[^>]*>', drawing, html)


def on_page_markdown(markdown, page, config, files):
    """Rewrites links that leave docs/, and ranks the page; called by mkdocs for each page."""
    for beginnings, rank in RANKS.items():
        if page.file.src_uri.startswith(beginnings):
            page.meta.setdefault("search", {})["boost"] = rank
    docs = Path(config.docs_dir)
    root = docs.parent
    here = os.path.dirname(page.file.src_uri)

    def rewrite(match):
        bang, text, target = match.groups()
        text = LINK.sub(rewrite, text)  # a picture that is a link
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:|/|#", target):
            return f"{bang}[{text}]({target})"
        place = os.path.normpath(os.path.join("docs", here, path))
        if place.startswith("docs" + os.sep):
            return f"{bang}[{text}]({target})"
        if not (root / place).exists():
            raise PluginError(f"{page.file.src_uri}: no {place} for the link to {target}")
        if anchor and place.endswith(".md") and anchor not in anchors(root / place):
            raise PluginError(f"{page.file.src_uri}: no heading #{anchor} in {place}")
        if place.endswith(PICTURES):
            name = f"assets/repository/{place}"
            if files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(root / place)))
            return f"{bang}[{text}]({os.path.relpath(name, here or '.')})"
        kind = "tree" if (root / place).is_dir() else "blob"
        return (
            f"{bang}[{text}]({config.repo_url}/{kind}/main/{place}{'#' + anchor if anchor else ''})"
        )

    markdown = re.sub(r"^[ \t]*<!--\s*test:.*?-->[ \t]*\n", "", markdown, flags=re.M | re.S)
    # Code stays as it is: blocks between fences, words between backquotes that look like a link.
    code = r"(^[ \t]*(```|~~~).*?^[ \t]*\2[ \t]*$|`[^`\n]*\]\([^`\n]*`)"
    pieces, last = [], 0
    for block in re.finditer(code, markdown, flags=re.M | re.S):
        pieces += [LINK.sub(rewrite, markdown[last : block.start()]), block[0]]
        last = block.end()
    return "".join([*pieces, LINK.sub(rewrite, markdown[last:])])
