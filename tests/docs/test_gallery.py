"""Every picture of the gallery says what it is made of, is there, and is small."""

import re

from docs.generate import gallery


def test_pictures_have_a_source_and_are_small():
    text = gallery.PAGE.read_text()
    made = {step["name"]: step["source"] for step in gallery.STEP.finditer(text) if step["name"]}
    folder = gallery.ROOT / "docs/assets/gallery"
    kept = {f"assets/gallery/{path.name}" for path in folder.iterdir()}
    assert made.keys() == kept == set(re.findall(r"\]\((assets/gallery/[^)]+)\)", text))
    assert all(source.endswith((".png", ".html")) for source in made.values())
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_200_000


def test_commands_stand_before_their_pictures():
    parts = gallery.sections("# A\n\n## Scan\n\nx\n\n## Map\n", "scan")
    assert parts == ["## Scan\n\nx\n\n"]
    steps = list(
        gallery.STEP.finditer(
            "```sh\npython -m a\n```\n\n<!-- picture: a.html#TP53 top 40% -->\n![x](assets/b.png)\n"
        )
    )
    assert steps[0]["commands"] == "python -m a\n"
    assert (steps[1]["source"], steps[1]["hash"], steps[1]["name"]) == (
        "a.html",
        "#TP53",
        "assets/b.png",
    )
