"""The page of exit codes, from `phenomjax/system/errors.py` and the launchers' restart policy."""

import re

from docs.generate.source import ROOT, comment_above, docstring_of, lines_of, sentence, source_link

FILE = ROOT / "phenomjax" / "system" / "errors.py"
INTRO = """# Exit codes

What a command leaves behind for the shell, a scheduler or a pipeline. The same codes hold for every
command of phenomjax.

| code | name | meaning |
| --- | --- | --- |
"""
CODE = re.compile(r"^(EXIT_\w+) = (\d+)(?:  # (.*))?$")


def codes() -> dict[int, tuple[str, str]]:
    """{exit code: (its name in the code, what it means)}."""
    found = {}
    for at, line in enumerate(lines_of(FILE), 1):
        if match := CODE.match(line):
            found[int(match[2])] = match[1], sentence(match[3] or comment_above(FILE, at))
    return found


def page() -> str:
    """The page."""
    rows = [f"| {code} | `{name}` | {words} |" for code, (name, words) in codes().items()]
    rows.append("| 130 | | Ended at once with Ctrl-C. What is finished is kept. |")
    rows.append("| 128 + N | | Killed by signal N: 137 by SIGKILL, often for want of memory. |")
    policy = docstring_of(ROOT / "launch" / "supervise.py")
    start = policy.index("What happens after a start")
    return (
        INTRO
        + "\n".join(rows)
        + "\n\n## What a launcher makes of them\n\n"
        + "`launch/train.sbatch` and `launch/local.py` run a command until it is done "
        + f"({source_link('launch/supervise.py')}):\n\n```text\n{policy[start:].strip()}\n```\n"
    )
