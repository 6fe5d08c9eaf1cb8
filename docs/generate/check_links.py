"""Every link and every path of a page named in the repository leads somewhere: part of `make lint`.

Reads README.md and all other Markdown files, the text of the notebooks, and mentions of
`docs/….md` and `bench/results/…` anywhere (comments, help, errors). A link may be relative, or an
address of the repository or of the site; its anchor has to be a heading. Links to other hosts are
not asked for. Pages that are made at build are those of mkdocs.yml's `nav`; their anchors are
checked by `make docs`, which is strict.

    python -m docs.generate.check_links
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import yaml
from pymdownx.slugs import slugify

LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|href|srcset)=\"([^\"]+)\"|^\[[^\]]+\]: +(\S+)", re.M)
MENTION = re.compile(r"(?<![\w./-])(?:docs/[\w./-]+\.md|bench/results/[\w./-]+\.\w+)")
CODE = re.compile(r"^[ \t]*(```|~~~).*?^[ \t]*\1[ \t]*$|`[^`\n]*`", re.M | re.S)


class Settings(yaml.SafeLoader):
    """mkdocs.yml without its Python objects."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def nav_pages(entry) -> set[str]:
    """All pages of a `nav`."""
    if isinstance(entry, str):
        return {entry}
    return set().union(*map(nav_pages, entry.values() if isinstance(entry, dict) else entry))


def text_of(path: Path) -> str:
    """A Markdown file, or the Markdown cells of a notebook."""
    text = path.read_text()
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(each["source"]) for each in cells if each["cell_type"] == "markdown")


@cache
def anchors(path: Path) -> set[str]:
    """The names by which headings and marked places of a page can be linked to."""
    text = re.sub(r"^[ \t]*(```|~~~).*?^[ \t]*\1[ \t]*$", "", text_of(path), flags=re.M | re.S)
    slug, found, seen = slugify(case="lower"), set(), Counter()
    for line in re.findall(r"^#{1,6} +(.+?)(?: +#+)?$", text, re.M):
        marked = re.search(r"\{ *#([\w-]+)[^}]*\}$", line)
        words = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line)
        name = marked[1] if marked else slug(re.sub(r"[`*]", "", words), "-")
        same = seen[name]
        seen[name] += 1
        found.add(f"{name}_{same}" if same else name)
    return found | set(re.findall(r"(?:id|name)=\"([^\"]+)\"", text))


def problems(root: Path) -> list[str]:
    """One line for each link that leads nowhere."""
    settings = yaml.load((root / "mkdocs.yml").read_text(), Settings)
    generated = {f"docs/{page}" for page in nav_pages(settings["nav"])}
    repository, site = settings["repo_url"], settings["site_url"]
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=root, check=True, capture_output=True, text=True).stdout
    found = []

    def check(name: str, target: str) -> None:
        path, _, anchor = target.partition("#")
        if target.startswith(site):
            page = path.removeprefix(site) or "index.html"
            path = "docs/" + re.sub(r"\.html$|/$", "", page) + ".md"
        elif address := re.match(rf"{re.escape(repository)}/(?:blob|tree)/main/?", path):
            path = path[address.end() :] or "."
        elif re.match(r"[a-z][a-z0-9+.-]*:", target):
            return
        else:
            path = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
        if not (root / path).exists():
            if path not in generated and not path.startswith("docs/assets/"):
                found.append(f"{name}: no {path} for the link to {target}")
        elif anchor and path.endswith((".md", ".ipynb")) and anchor not in anchors(root / path):
            near = ", ".join(sorted(anchors(root / path)))
            found.append(f"{name}: no heading #{anchor} in {path}; it has {near}")

    for name in sorted(set(names.split("\0")) - {""}):
        path = root / name
        if not path.is_file() or path.is_symlink():
            continue
        if path.suffix in (".md", ".ipynb"):
            text = CODE.sub("", text_of(path))
            for groups in LINK.findall(text):
                check(name, "".join(groups))
        if path.suffix in (".md", ".ipynb", ".py", ".yml", ".yaml", ".sbatch", ".toml", ".cff", ""):
            try:
                text = path.read_text()
            except UnicodeDecodeError:
                continue
            for place in set(MENTION.findall(text)):
                if not (root / place).exists() and place not in generated:
                    found.append(f"{name}: names {place}, which is not there")
    return found


if __name__ == "__main__":
    lines = problems(Path(__file__).parents[2])
    print("\n".join(lines) or "Links: all lead somewhere")
    sys.exit(bool(lines))
