"""What the pages of concepts say of the code."""

from docs.generate import sharding
from phenomjax.tasks.protocol import MEMBERS
from tests.lab import ROOT


def test_the_table_of_sharding_is_that_of_the_rules():
    mend = "write it again: python -m docs.generate.sharding"
    assert sharding.page() == sharding.PAGE.read_text(), mend
    assert "| `mlp` | hidden width of an MLP, of an LSTM or of convolutions |" in sharding.table()


def test_the_members_of_a_task_are_those_of_the_protocol():
    page = (ROOT / "docs/concepts/tasks.md").read_text()
    section = page.split("## Its members")[1].split("\n## ")[0]
    named = {line.split("`")[1].split("(")[0] for line in section.splitlines() if "| `" in line}
    assert named == set(MEMBERS)
