"""The table of docs/concepts/sharding.md, from the rules of phenomjax/sharding.py.

python -m docs.generate.sharding
"""

import re
from pathlib import Path

from phenomjax.sharding import NAMES, RULES

PAGE = Path(__file__).parents[1] / "concepts/sharding.md"
TABLE = re.compile(
    r"(<!-- python -m docs\.generate\.sharding .*?-->\n).*?(<!-- /sharding -->)", re.S
)


def table() -> str:
    """A row a logical axis, a column a preset."""
    lines = [f"| axis | of | {' | '.join(f'`{name}`' for name in RULES)} |"]
    lines += ["| --- | --- |" + " --- |" * len(RULES)]
    for name, meaning in NAMES.items():
        axes = [rule[name] or "" for rule in RULES.values()]
        shown = [each if isinstance(each, str) else ", ".join(each) for each in axes]
        lines.append(f"| `{name}` | {meaning} | {' | '.join(shown)} |")
    return "\n".join(re.sub(r"\| (?=\|)", "| ", line) for line in lines) + "\n"


def page() -> str:
    """The page with the table of today."""
    return TABLE.sub(lambda found: f"{found[1]}\n{table()}\n{found[2]}", PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
