"""How the checks of a preflight went: what they raise, the rows of the table, and the table."""

import textwrap
from dataclasses import asdict, dataclass, field

OK, FAIL, SKIPPED, NOT_RUN = "ok", "FAIL", "skipped", "not run"


class Problem(Exception):
    """What a check found.

    Attributes:
      mend: what to do about it.
    """

    def __init__(self, what: str, mend: str = ""):
        super().__init__(what)
        self.mend = mend


class Skip(Exception):
    """Why a check says nothing here."""


@dataclass(frozen=True)
class Result:
    """How a check went: `status` is OK, FAIL, SKIPPED or NOT_RUN; `numbers` are for scripts, with
    their units in their names.
    """

    check: str
    status: str
    seconds: float
    detail: str
    mend: str = ""
    numbers: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """As scripts read it: `status` ok, fail, skipped or not run."""
        return asdict(self) | {"status": self.status.lower()}


def table(results: list[Result], head: str, width: int = 150) -> str:
    """The results as text; `head` comes above them."""
    names = max(len(r.check) for r in results)
    lines = [head, "", f"{'check':<{names}}  result   seconds  detail"]
    indent = " " * (names + 20)

    def add(start: str, text: str) -> None:
        more = textwrap.wrap(
            text, width - len(indent), break_long_words=False, break_on_hyphens=False
        ) or [""]
        lines.append((start + more[0]).rstrip())
        lines.extend(indent + line for line in more[1:])

    for r in results:
        took = "" if r.status == NOT_RUN else f"{r.seconds:7.1f}"
        add(f"{r.check:<{names}}  {r.status:<7}  {took:>7}  ", r.detail)
        if r.mend:
            add(f"{'':<{names}}  {'mend:':>16}  ", r.mend)
    by = {s: [r.check for r in results if r.status == s] for s in (FAIL, NOT_RUN, SKIPPED)}
    more = "".join(f"; {s}: {', '.join(by[s])}" for s in (NOT_RUN, SKIPPED) if by[s])
    failed = f"FAIL: {', '.join(by[FAIL])}" if by[FAIL] else "PASS"
    return "\n".join([*lines, "", f"{failed}{more}"]) + "\n"
