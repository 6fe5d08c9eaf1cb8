"""Pages cannot lie: the fenced blocks of README.md and of every page of docs/ are run, in order,
page by page, each page in an empty folder of its own in which `configs` and `launch` are those of
the repository. One page alone: `pytest tests/docs/test_pages.py -k channels`; while you write,
PHENOMJAX_SHELF=FOLDER keeps what pages share for the next time.

What an author writes (plain Markdown; every block names its language):

* ```sh: commands. `python -m phenomjax…` and `phenomjax …` run in this process (training in one of
  its own), `python FILE.py` and `python launch/local.py …` too; `cat`, `ls`, `head` and other plain
  words of a shell run by bash, and so do lines with pipes, `>` and loops (there each start of ours
  costs seconds: better one command a line). `make TARGET` is looked up, not run. Anything else
  (pip, sbatch, docker, …) wants `parse`. A command that does not end with 0 fails the test.
* ```python: a snippet; those of a page share their names, in order. With title="my_file.py"
  (```python title="my_file.py") it is no snippet but the content of that file, and is written.
* ```text: output; not run. Any other language (yaml, toml, json, …): not run; with title="FILE"
  written.

HTML comments before a block, which no reader sees, guide the test; several may stand before one:

* `<!-- test: shelf plates.zarr runs/l8=mae -->`: puts small things that the session makes once
  where the page wants them, TARGET or TARGET=THING. There are (see RECIPES in tests/lab/pages.py):
  `plates.zarr` (image bank, 2 plates of 24 wells, 6 channels, 64 px, experiment EXP01),
  `proteins.zarr` (token bank), `mae` and `txl` (runs of 4 steps on these, complete, with metrics
  and checkpoints), `embeddings.zarr` (of plates.zarr by mae), `proteins.fasta`, `profiles.parquet`
  (three plates as CellProfiler and CPJUMP1 have them).
* `<!-- test: before COMMAND -->`: runs hidden commands first, a line each (`python -m …`,
  `python -m tests.lab.X …`, `python -c '…'`, shell).
* `<!-- test: add --config.num_steps=3 … -->`: adds words to the commands of ours in the block, so
  that they are small; the words `@mae` and `@txl` in it stand for the sizes of a run of seconds (4
  steps, crops of 32 px, a checkpoint at the end; see SMALL_RUN). `<!-- test: add main @mae -->`:
  only to those with the word `main`; `add maps align …`: with these words.
* `<!-- test: parse REASON -->`: for what no laptop runs (clusters, buckets, downloads, large data).
  Each command line of ours is then parsed: commands, flags, choices, keys and values of
  `--config.KEY=VALUE`, experiment files, extras of pip, targets of make, scripts of launch/. Where
  a line holds `…` or `$(…)` the names of its flags alone are looked at. Python is compiled, and
  what it imports from phenomjax is there.
* `<!-- test: with others -->`: the snippet runs in a process of the page's own that has the
  packages of .venv/others (scanpy, spatialdata, pycytominer, napari) or .venv/biotrainer; snippets
  of one page with the same folder share it, and their names.
* `<!-- test: exit 2 -->`: the commands of the block end with this code (one command is best).
* `<!-- test: shown -->` before a ```text block: each of its lines was printed by the commands above
  it; `…` in a line stands for anything.

Code spans in the text are looked at, too: `python -m phenomjax.X --flag` and `phenomjax X --flag`
are commands with such flags, and `model.patch_size` or `--config.model.patch_size=8` are keys.
"""

import pytest

from tests.lab import ROOT, pages


def names():
    """Pages as a reader finds them."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    kept = [path.relative_to(ROOT) for path in found if "generate" not in path.parts]
    return sorted(str(name) for name in kept)


@pytest.mark.parametrize("name", names())
def test_a_page_does_what_it_says(name, tmp_path, shelf):
    page = pages.Page(tmp_path / "page", shelf)
    try:
        for block in pages.blocks(ROOT / name):
            page.run(block)
    finally:
        page.end()
    wrong = pages.wrong_spans(ROOT / name)
    assert not wrong, "\n".join(wrong)


PAGE = """# A page

`phenomjax prepare inspect` and `model.patch_size` are there, `a.zarr` is no key.

<!-- test: before printf 'one\\ntwo\\n' >list.txt -->
```sh
cat list.txt | wc -l   # a comment
python -m phenomjax.prepare subset \\
  --help
```

<!-- test: shown -->
```text
2
usage: … subset …
```

1. In a list:

    ```python title="mine.py"
    def double(x):
        return 2 * x
    ```

```python
from mine import double

four = double(2)
```

```python
print(four)
```

<!-- test: shown -->
```text
4
```

<!-- test: add --help -->
```sh
phenomjax score --checkpoint runs/txl
```

<!-- test: exit 2 -->
```sh
phenomjax prepare inspect none.zarr
```

<!-- test: parse needs a cluster -->
```sh
sbatch --nodes=2 launch/train.sbatch --config configs/mae_demo.py --workdir a --config.seed=1
PHENOMJAX_MAIN="python -m phenomjax.preflight" sbatch launch/train.sbatch --config … \\
  --workdir … --expect_gbps=200
pip install 'phenomjax[cluster]' && make demo
for one in a b; do
  python -m phenomjax.prepare images --source $one --layout phenix --out $(basename $one).zarr
done
```
"""


def run(text, folder):
    """A page of its own, run."""
    (folder / "page.md").write_text(text)
    page = pages.Page(folder / "page", pages.Shelf(folder / "shelf"))
    for block in pages.blocks(folder / "page.md", folder):
        page.run(block)
    wrong = pages.wrong_spans(folder / "page.md", folder)
    assert not wrong, "\n".join(wrong)


def test_the_test_runs_what_an_author_may_write(tmp_path):
    run(PAGE, tmp_path)


@pytest.mark.parametrize(
    "text,told",
    [
        ("```sh\nfalse\n```", "not run by the test of the pages"),
        ("```sh\ncat none.txt\n```", "`cat none.txt` ended with 1, not 0"),
        ("```\nls\n```", "names no language"),
        ("<!-- test: fly -->\n```sh\nls\n```", "knows no 'fly'"),
        ("<!-- test: parse -->\n```sh\nls\n```", "'parse' says nothing"),
        ("```python\n\n1 / 0\n```", 'page.md", line 3'),
        ("```sh\necho 5\n```\n<!-- test: shown -->\n```text\n6\n```", "`6` was not printed"),
        ("```sh\nphenomjax fly\n```", "has no command fly"),
        ("```sh\nphenomjax score --chekpoint a\n```", "ended with 2, not 0"),
        ("Give `phenomjax embed images --bnak b`.", "phenomjax.embed has no --bnak"),
        ("Set `model.pacth_size`.", "page.md:1: there is no key model.pacth_size"),
        ("See `python -m phenomjax.embde images`.", "there is no command phenomjax.embde"),
        *(
            (f"<!-- test: parse far away -->\n```sh\n{line}\n```", told)
            for line, told in [
                ("sbatch launch/trian.sbatch --config x", "there is no launch/trian.sbatch"),
                (
                    "python launch/local.py -n 2 -- --config configs/mae.py:S/16 --workdir w"
                    " --config.model.dpeth=3",
                    "Did you mean 'model.depth'?",
                ),
                (
                    "phenomjax main --config configs/mae.py:XL/16 --workdir w",
                    "no model size 'XL/16'",
                ),
                ("phenomjax main --config a.json --config.num_steps=x", "is not a whole number"),
                ("phenomjax maps align --profiles a --out b --align best", "--align is 'best'"),
                ("phenomjax prepare images --source a --layuot phenix --out …", "no --layuot"),
                ("make tset", "make has no tset"),
                ("pip install 'phenomjax[cudda]'", "there is no extra cudda"),
                ("python -m bench.lodaer", "there is no bench.lodaer"),
            ]
        ),
    ],
    ids=lambda text: text[-30:],
)
def test_the_test_finds(text, told, tmp_path):
    with pytest.raises(AssertionError) as raised:
        run(text, tmp_path)
    assert told in " ".join(str(raised.value).split())
