"""A report that is written in Markdown, as a page for a browser: its figures inside, its tables to
be sorted, its parts in a list.
"""

import base64
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

from phenomjax.figures.pages import frame

SCALE = 110  # CSS pixels an inch of a figure
NUMBER = re.compile(r"[-+\u2212*]*\.?\d[^a-z]*")
EMPTY = '<section class="panel"></section>'  # before the first heading
# the only HTML of our Markdown
FOLDS = re.compile(r"(<details>|</details>|<summary>[^<>]*</summary>|\s)*")


def page(text: str, folder: Path, summary: str, marks: Mapping[str, str] | None = None) -> str:
    """The page of a report.

    Args:
      text: Markdown: its first heading becomes the title, `<details>` folds, a figure's caption may
        stand below it once more.
      folder: that the figures' addresses begin at; of another place none is shown.
      summary: a line below the title.
      marks: {bold words: "good", "warn", "bad" or "none"}, the colour that they are shown in.

    Returns:
      HTML. Names from data stay text, whatever is in them, and nothing is loaded.
    """
    markdown = _markdown(marks or {})
    title, contents, parts, caption = "Report", list[tuple[str, str, str]](), list[str](), ""
    for node in SyntaxTreeNode(markdown.parse(text)).children:
        html = markdown.renderer.render(node.to_tokens(), markdown.options, {})
        image = _only_image(node)
        if node.type == "heading":
            name = _words(node)
            if node.tag == "h1":
                title = name
                continue
            slug = f"{len(contents)}-" + re.sub(r"\W+", "-", name.lower()).strip("-")
            contents.append((node.tag, slug, name))
            if node.tag == "h2":
                parts.append('</section><section class="panel">')
            parts.append(html.replace(f"<{node.tag}>", f'<{node.tag} id="{slug}">', 1))
        elif node.type == "table":
            parts.append(_table(node, markdown, contents[-1][2] if contents else title))
        elif image is not None:
            caption = _words(node)
            parts.append(_figure(str(image.attrs["src"]), caption, folder))
        elif not (caption and _words(node) == caption):
            parts.append(html)
    article = f'<section class="panel">{"".join(parts)}</section>'.replace(EMPTY, "", 1)
    body = (
        f'<main><nav aria-label="Parts of this page"><ul>{_list(contents)}</ul></nav>'
        f'<article id="content" tabindex="-1">{article}</article></main>'
    )
    return frame.page(title, summary, body, frame.part("report.css"))


def _markdown(marks: Mapping[str, str]) -> MarkdownIt:
    """CommonMark with tables, of whose HTML only what folds is left."""

    def only_folds(_: Any, tokens: list[Token], at: int, *rest: Any) -> str:
        words = tokens[at].content
        return words if FOLDS.fullmatch(words) else escape(words)

    def strong(_: Any, tokens: list[Token], at: int, *rest: Any) -> str:
        mark = marks.get(tokens[at + 1].content)
        return f'<strong class="chip {mark}">' if mark else "<strong>"

    markdown = MarkdownIt("commonmark", {"html": True}).enable("table")
    markdown.add_render_rule("html_block", only_folds)
    markdown.add_render_rule("html_inline", only_folds)
    markdown.add_render_rule("strong_open", strong)
    markdown.add_render_rule("image", lambda _, tokens, at, *rest: escape(tokens[at].content))
    return markdown


def _words(node: SyntaxTreeNode) -> str:
    """The text of a node without its marks."""
    return "".join(
        one.content for one in node.walk() if one.type in ("text", "code_inline", "html_inline")
    )


def _only_image(node: SyntaxTreeNode) -> SyntaxTreeNode | None:
    inside = node.children[0].children if node.type == "paragraph" else []
    return inside[0] if len(inside) == 1 and inside[0].type == "image" else None


def _figure(source: str, caption: str, folder: Path) -> str:
    path = (folder / source).resolve()
    if not (path.is_relative_to(folder.resolve()) and path.is_file()):
        return f"<p>{escape(caption)} ({escape(source)})</p>"
    from PIL import Image  # here, because it is of matplotlib

    data = base64.b64encode(path.read_bytes()).decode()
    with Image.open(path) as image:  # all at one scale, whatever their resolution
        wide = round(SCALE * image.width / image.info.get("dpi", (96, 96))[0])
    return (
        f'<figure><img class="picture" width="{wide}" alt="{escape(caption)}"'
        f' src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _table(node: SyntaxTreeNode, markdown: MarkdownIt, label: str) -> str:
    """A table whose heads sort; columns of numbers are flush right."""
    head, body = node.children[0], node.children[1].children if len(node.children) > 1 else []
    rows = [[_words(cell) for cell in row.children] for row in body]
    for i, column in enumerate(zip(*rows, strict=True)):
        there = [words for words in column if words not in ("", "-")]
        if there and all(NUMBER.fullmatch(words) for words in there):
            for row in [head.children[0], *body]:
                tokens = row.children[i].nester_tokens
                if tokens is not None:
                    tokens.opening.attrSet("class", "number")
    html = markdown.renderer.render(node.to_tokens(), markdown.options, {})
    html = html.replace("<table>", '<table class="data">', 1)
    html = re.sub(r"(<th\b[^>]*>)(.+?)(</th>)", r'\1<button type="button">\2</button>\3', html)
    return frame.scrolled(html, label)


def _list(contents: list[tuple[str, str, str]]) -> str:
    """Links to the parts, those of a part inside it."""
    lines, open_inside = list[str](), False
    for tag, slug, name in contents:
        inner = tag != "h2"
        if inner != open_inside:
            lines.append("<li><ul>" if inner else "</ul></li>")
        open_inside = inner
        lines.append(f'<li><a href="#{slug}">{escape(name)}</a></li>')
    return "".join(lines) + ("</ul></li>" if open_inside else "")
