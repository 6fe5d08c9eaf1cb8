"""Runs from tables and folders: numbers as people write them; every fault named with its row, and
its mend, which is tried.
"""

import json
import re

import numpy as np
import pandas as pd
import pytest

from phenomjax.scaling import observations
from phenomjax.scaling.__main__ import main
from phenomjax.scaling.fit import command
from phenomjax.scaling.observations import checks
from phenomjax.system.errors import UserError
from phenomjax.system.options import parse

COLUMNS = "params=params,tokens=tokens,loss=loss"
N = np.array([1e6, 2e6, 4e6, 1.5e6, 3e6, 8e6, 2e6, 6e6, 1.6e7, 4e6, 1e7, 3e7])
C = np.repeat([1e15, 4e15, 1.6e16, 6.4e16], 3)


def law(params, seen):
    return 1.7 + 400 / params**0.34 + 900 / seen**0.3


def table(**changes):
    """Twelve runs at four budgets, as texts."""
    seen = C / 6 / N
    columns = {
        "run": [f"r{n}" for n in range(12)],
        "params": N,
        "tokens": seen,
        "loss": law(N, seen),
    }
    frame = pd.DataFrame(columns).astype(object)
    for name, values in changes.items():
        if isinstance(values, dict):
            for row, value in values.items():
                frame.loc[row, name] = value
        else:
            frame[name] = values
    return frame


def written(folder, frame, name="runs.csv"):
    path = folder / name
    frame.to_csv(path, index=False)
    return path


def read(path, *words, columns=COLUMNS):
    """The runs as `scaling fit` reads them."""
    argv = ["--runs", str(path), "--out", str(path.parent / "out"), *words]
    argv += ["--columns", columns] if columns else []
    return command.read(parse(command.Options, argv, "fit", ""))


def close(runs, rows=range(12)):
    rows = list(rows)
    np.testing.assert_allclose(runs.params, N[rows], rtol=1e-3)
    np.testing.assert_allclose(runs.seen, (C / 6 / N)[rows], rtol=1e-3)
    np.testing.assert_allclose(runs.loss, law(N, C / 6 / N)[rows], rtol=1e-3)


WRITTEN = {  # ways to write params and tokens
    "suffixes": (lambda n: f"{n / 1e6:.6g}M", lambda d: f"{d / 1e9:.6g} B"),
    "words": (lambda n: f"{n / 1e6:.6g} million", lambda d: f"{d / 1e9:.6g}B tokens"),
    "thousands": (lambda n: f"{n:,.0f}", lambda d: f"{d:,.0f}"),
    "apostrophes": (
        lambda n: f"{n:,.0f}".replace(",", "'"),
        lambda d: f"{d:,.0f}".replace(",", " "),
    ),
    "points": (lambda n: f"{n:,.0f}".replace(",", "."), lambda d: f"{d:_.0f}"),
    "powers": (lambda n: f"{n:.5e}", lambda d: f"{d / 1e8:.6f} x 10^8"),
}


@pytest.mark.parametrize("how", WRITTEN)
def test_numbers_as_people_write_them(tmp_path, how):
    params, tokens = WRITTEN[how]
    frame = table(params=list(map(params, N)), tokens=list(map(tokens, C / 6 / N)))
    close(read(written(tmp_path, frame)))


@pytest.mark.parametrize("kind", ["tsv", "semicolons", "xlsx", "parquet", "gz"])
def test_tables_of_every_kind(tmp_path, kind):
    frame = table().infer_objects()
    path = tmp_path / {"tsv": "r.tsv", "semicolons": "r.csv", "gz": "r.csv.gz"}.get(
        kind, f"r.{kind}"
    )
    if kind == "xlsx":
        frame.to_excel(path, index=False)
    elif kind == "parquet":
        frame.to_parquet(path)
    elif kind == "semicolons":
        frame.to_csv(path, index=False, sep=";", decimal=",")
    else:
        frame.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    runs = read(path, columns=f"{COLUMNS},name=run")
    close(runs)
    place = "row 1" if kind == "parquet" else "2"  # of the file
    assert runs.names[0].startswith("r0 (") and place in runs.names[0].rpartition(path.name)[2]


def test_flops_in_place_of_tokens_and_beside_them(tmp_path):
    path = written(tmp_path, table(flops=C))
    close(read(path, columns="params=params,flops=flops,loss=loss"))
    both = read(path, columns=f"{COLUMNS},flops=flops")
    close(both)
    np.testing.assert_allclose(both.flops, C)


def test_units_in_the_header_and_factors(tmp_path):
    frame = table(params=N / 1e6, tokens=C / 6 / N / 1e9).rename(
        columns={"params": "params (M)", "tokens": "tokens, all"}
    )
    close(
        read(written(tmp_path, frame), columns="params=params (M),tokens=tokens, all*1e9,loss=loss")
    )


@pytest.mark.parametrize("unit", ["bits", "perplexity"])
def test_losses_in_other_units(tmp_path, unit):
    loss = law(N, C / 6 / N)
    converted = loss / np.log(2) if unit == "bits" else np.exp(loss)
    name = {"bits": "val bits/token", "perplexity": "val_ppl"}[unit]
    path = written(tmp_path, table(loss=converted).rename(columns={"loss": name}))
    columns = f"params=params,tokens=tokens,loss={name}"
    with pytest.raises(UserError, match=f"in {unit}.*`loss_unit` {unit}"):
        read(path, columns=columns)
    close(read(path, "--loss_unit", unit, columns=columns))
    assert read(path, "--loss_unit", "nats", columns=columns).loss[0] == pytest.approx(converted[0])


def test_perplexities_without_a_name_for_it(tmp_path):
    path = written(tmp_path, table(loss=np.exp(law(N, C / 6 / N) + 1)))
    with pytest.raises(UserError, match=r"worse than any guess.*`loss_unit` perplexity"):
        read(path)
    assert read(path, "--loss_unit", "perplexity").loss[0] == pytest.approx(
        law(N, C / 6 / N)[0] + 1
    )


FAULTS = {  # column, {row: what stands there}, what is said
    "negative": ("params", {3: -5.0}, r"line 5.*params.*-5.*not above 0"),
    "zero": ("tokens", {0: 0}, r"line 2.*tokens.*0 is not above 0"),
    "no number": ("tokens", {2: "many"}, r"line 4.*'many' is not a number"),
    "unknown suffix": ("params", {2: "4Q"}, r"line 4.*'4Q' is not a number"),
    "nothing": ("loss", {7: None}, r"line 9.*loss.*nothing is there.*diverged"),
    "nan": ("loss", {7: "NaN"}, r"line 9.*loss.*nothing is there.*diverged"),
    "inf": ("loss", {7: "inf"}, r"line 9.*inf: the run diverged"),
    "likelihood": ("loss", {4: -3.1}, r"line 6.*a log-likelihood\? Its loss is 3.1"),
    "diverged": ("loss", {8: 11.2}, r"line 10.*its loss 11.2 is \d.*x above.*diverged"),
    "low": ("loss", {1: 0.3}, r"line 3.*x below.*another unit"),
    "endless": ("params", {4: 1e300}, r"line 6.*more than there can be"),
    "two": ("loss", {0: "x", 11: -1}, r"2 of 12.*line 2.*line 13"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_rows_that_cannot_be_are_named_and_left_out_on_demand(tmp_path, fault):
    column, rows, said = FAULTS[fault]
    path = written(tmp_path, table(**{column: rows}))
    with pytest.raises(UserError, match=f"(?s){said}.*`on_bad_run` skip"):
        read(path)
    runs = read(path, "--on_bad_run", "skip")
    close(runs, [row for row in range(12) if row not in rows])
    assert len(runs.left_out) == len(rows)
    if fault in ("diverged", "low"):
        assert len(read(path, "--on_bad_run", "keep")) == 12


@pytest.mark.parametrize("rows", [[4], [0, 1, 2], [9, 10, 11], [1, 3, 5, 6, 8, 10], range(6)])
def test_bits_among_nats(tmp_path, rows):
    loss = law(N, C / 6 / N)
    path = written(tmp_path, table(loss={row: loss[row] / np.log(2) for row in rows}))
    with pytest.raises(
        UserError, match=r"in bits, theirs is in nats.*multiply it by 0.6931"
    ) as error:
        read(path)
    told = {int(line) - 2 for line in re.findall(r"line (\d+): its loss", str(error.value))}
    assert told == set(list(rows)[:6])
    mended = table()
    close(read(written(tmp_path, mended)))


def test_no_bits_are_seen_in_noisy_nats(tmp_path):
    random = np.random.default_rng(2)
    for spread in (0.01, 0.05):
        noise = np.exp(random.normal(0, spread, 12))
        assert len(read(written(tmp_path, table(loss=law(N, C / 6 / N) * noise)))) == 12


def test_flops_that_contradict(tmp_path):
    columns = f"{COLUMNS},flops=flops"
    path = written(tmp_path, table(flops=np.where(np.arange(12) == 5, C * 10, C)))
    with pytest.raises(UserError, match=r"line 7.*6ND.*disagree by 10 x"):
        read(path, columns=columns)
    close(read(path, "--on_bad_run", "skip", columns=columns), [n for n in range(12) if n != 5])
    path = written(tmp_path, table(flops=C, tokens=C / 6 / N / 1e9 * 1e4))
    with pytest.raises(UserError, match=r"do not fit each other.*tokens=tokens\*1e9"):
        read(path, columns=columns)


@pytest.mark.parametrize("role", ["params", "tokens"])
def test_columns_in_millions_are_asked_about(tmp_path, role):
    path = written(tmp_path, table(**{role: {"params": N / 1e6, "tokens": C / 6 / N / 1e9}[role]}))
    with pytest.raises(UserError, match=rf"seems to count in millions or billions.*{role}\*1e9"):
        read(path)
    factor = {"params": "1e6", "tokens": "1e9"}[role]
    close(read(path, columns=COLUMNS.replace(f"={role}", f"={role}*{factor}")))


def test_columns_that_hold_something_else(tmp_path):
    """Each mend is as it is said."""
    loss = law(N, C / 6 / N)
    path = written(tmp_path, table(loss=-loss))
    with pytest.raises(UserError, match=r"12 of 12.*write loss=loss\*-1 in `columns`") as error:
        read(path)
    assert "skip" not in str(error.value)  # which would leave nothing
    close(read(path, columns=COLUMNS.replace("loss=loss", "loss=loss*-1")))
    path = written(tmp_path, table(loss=np.exp(loss + 0.5)))
    with pytest.raises(UserError, match="give `loss_unit` perplexity"):
        read(path)
    assert np.allclose(read(path, "--loss_unit", "perplexity").loss, loss + 0.5)
    path = written(tmp_path, table(flops=C))
    with pytest.raises(UserError, match=r"no run has that.*write flops=flops in `columns`"):
        read(path, columns="params=params,tokens=flops,loss=loss")
    close(read(path, columns="params=params,flops=flops,loss=loss"))
    path = written(tmp_path, table(flops=C / 1e15))
    with pytest.raises(UserError, match=r"a factor, as in flops=flops\*1e18"):
        read(path, columns="params=params,flops=flops,loss=loss")
    close(read(path, columns="params=params,flops=flops*1e15,loss=loss"))
    with pytest.raises(UserError, match=r"takes 'params' of .* for params and for tokens"):
        read(path, columns="params=params,tokens=params,loss=loss")


def test_what_is_too_little(tmp_path):
    for frame, said in (
        (table().iloc[:5], r"has 5 runs.*wants 6 or more.*--budgets"),
        (table().iloc[[1] * 12], r"has 1 run that.*wants 6 or more"),
        (table(params=2e6, tokens=np.linspace(1e8, 1.8e8, 12)), "of one budget"),
        (table(params=2e6, tokens=np.geomspace(1e8, 1e10, 12)), "of one size of model"),
        (table(tokens=1e9, params=np.geomspace(1e6, 1e8, 12)), "of one amount of data"),
    ):
        with pytest.raises(UserError, match=said):
            read(written(tmp_path, frame), "--on_bad_run", "keep")


def test_runs_that_are_there_twice_count_once(tmp_path, caplog):
    path = written(tmp_path, pd.concat([table(), table().iloc[[3, 5]]]))
    close(read(path))
    assert "line 14 is" in caplog.text and "line 5 again" in caplog.text


def test_a_loss_that_grows_is_none(tmp_path):
    with pytest.raises(UserError, match="have the same loss"):
        read(written(tmp_path, table(loss=3.2)))
    with pytest.raises(UserError, match="Is it an accuracy"):
        read(written(tmp_path, table(loss=1 / law(N, C / 6 / N))))


def test_runs_of_several_vocabularies_or_data(tmp_path, caplog):
    kinds = ["a"] * 8 + ["b"] * 4
    path = written(tmp_path, table(tokenizer=kinds))
    with pytest.raises(UserError, match=r'\'tokenizer\': a \(8 runs\), b.*`only` "tokenizer=a"'):
        read(path)
    close(read(path, "--only", "tokenizer=a"), range(8))
    with pytest.raises(UserError, match=r"no row.*There are: a, b"):
        read(path, "--only", "tokenizer=zzz")
    close(read(written(tmp_path, table(dataset=kinds))))
    assert "--only" in caplog.text and "dataset=a" in caplog.text


def test_columns_are_asked_for_and_proposed(tmp_path):
    frame = table().rename(columns={"params": "Model Size", "tokens": "D", "loss": "val_loss"})
    path = written(tmp_path, frame)
    with pytest.raises(UserError) as error:
        read(path, columns="")
    proposed = re.search(r'Give `columns` "(.*?)"', str(error.value))[1]
    close(read(path, columns=proposed))
    for columns, said in (
        ("params=Model Sise,tokens=D,loss=val_loss", "no column 'Model Sise'.*'Model Size'"),
        ("params=Model Size,token=D,loss=val_loss", "no token.*'tokens'"),
        ("params=Model Size,tokens=D", "which column is loss.*loss=val_loss"),
        ("params=Model Size,tokens=D,loss=", "names no column for loss"),
        ("params=D,params=D,loss=val_loss,tokens=D", "names params twice"),
        ("Model Size", "not of the form"),
        ("params=Model Size,tokens=D*x,loss=val_loss", "factor is no number"),
    ):
        with pytest.raises(UserError, match=said):
            read(path, columns=columns)


def test_files_that_hold_no_runs(tmp_path, monkeypatch):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("params,tokens,loss\n")
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n')
    for name, said in (
        ("empty.csv", "empty"),
        ("header.csv", "no row below"),
        ("log.jsonl", "is JSON"),
        ("none.csv", "none.csv"),
    ):
        with pytest.raises(UserError, match=said):
            read(tmp_path / name)
    monkeypatch.setattr("phenomjax.scaling.observations.table.MOST", 11)
    with pytest.raises(UserError, match="a log of steps"):
        read(written(tmp_path, table()))


@pytest.mark.parametrize(
    "words", [[], ["--runs", "a.csv", "b"], ["folder", "--columns", "params=n"]]
)
def test_folders_or_one_table(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"one table|are of a table"):
        main(["fit", *words, "--out", "out"])


# Folders of runs


def make_run(folder, number, steps=10, config=(), size=(), losses=None):
    """A run's folder as training leaves it."""
    path = folder / "trials" / f"{number:04d}"
    path.mkdir(parents=True)
    seen = C[number] / 6 / N[number]
    base = {
        "task": "causal_lm",
        "num_steps": steps,
        "seed": 0,
        "global_batch_size": 8,
        "optimizer": {"name": "lion", "schedule": "one_cycle", "warmup_fraction": 0.1,
                      "final_fraction": 0.0, "learning_rate": 1e-3},
        "model": {"alphabet": "protein", "embed_dim": int(N[number] // 1e5), "vocab_size": 30},
        "data": {"banks": ["b.zarr"], "subset": 1.0, "segment_len": 8},
        "eval": {"num_batches": 4, "batch_size": 8, "seed": 0},
    }  # fmt: skip
    for key, value in dict(config).items():
        place, *parents = base, *key.split(".")[:-1]
        for parent in parents:
            place = place[parent]
        place[key.split(".")[-1]] = value
    (path / "config.json").write_text(json.dumps(base))
    known = {"params": int(N[number]), "flops_per_step": C[number] / steps, "unit": "residues",
             "units_per_step": seen / steps, "units_per_epoch": 5e8,
             "data": {"0 b.zarr": "1f" * 32}}  # fmt: skip
    (path / "size.json").write_text(json.dumps(known | dict(size)))
    end = law(N[number], seen)
    losses = losses or {steps // 2: end + 0.3, steps: end}
    lines = [{"step": step, "val/loss": loss, "val/accuracy": 0.1} for step, loss in losses.items()]
    lines.insert(1, {"step": steps // 2, "train/loss": 3.0})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def ladder(tmp_path):
    for number in range(12):
        make_run(tmp_path, number)
    return tmp_path


def of_folders(*folders):
    return command.read(parse(command.Options, [*map(str, folders), "--out", "out"], "fit", ""))


def test_a_ladder_is_read_from_its_folder(ladder):
    runs = of_folders(ladder)
    close(runs)
    assert runs.names[3] == "0003" and runs.unit == "residues" and not runs.left_out
    np.testing.assert_allclose(runs.flops, C)
    assert (runs.unique == 5e8).all() and not runs.metrics
    assert (of_folders(ladder, "--metrics", "val/accuracy").metrics["val/accuracy"] == 0.1).all()
    curve = runs.curves[0]
    np.testing.assert_allclose(curve.fraction, [0.5, 1.0])
    assert curve.loss[1] == runs.loss[0] and curve.schedule == ("one_cycle", 0.1, 0.0)
    assert runs.facts["task"] == "task=causal_lm"
    # each run once, however it is named; what is below a run belongs to it
    again = of_folders(ladder, ladder / "trials" / "0003")
    assert again.names == runs.names


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_loss_far_from_the_others_is_told(tmp_path, caplog):
    for number in range(12):
        make_run(tmp_path, number, **({"losses": {5: 3.0, 10: 44.0}} if number == 4 else {}))
    assert len(of_folders(tmp_path)) == 12
    assert re.search(r"the loss of \S*0004, 44, is \d\S* x that of runs around it", caplog.text)


UNFINISHED = {
    "stopped": ({"losses": {5: 3.0}}, r"not finished: step 5 of 10"),
    "diverged": ({"losses": {5: 3.0, 10: float("nan")}}, r"diverged.*learning_rate"),
    "negative": ({"losses": {5: 3.0, 10: -1.0}}, r"a val/loss of -1 at its end.*above 0"),
}


@pytest.mark.parametrize("case", UNFINISHED)
def test_runs_without_an_end_are_named_and_left_out(tmp_path, caplog, case):
    changes, said = UNFINISHED[case]
    for number in range(12):
        make_run(tmp_path, number, **(changes if number == 4 else {}))
    runs = of_folders(tmp_path)
    close(runs, [n for n in range(12) if n != 4])
    assert re.search(rf"0004.*{said}", runs.left_out[0]) and runs.left_out[0] in caplog.text


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path / "size.json").unlink(), "0002 has no size.json"),
        (lambda path: (path / "size.json").write_text("{"), "0002: its size.json is damaged"),
        (lambda path: (path / "config.json").write_text("[]"), "0002: its config.json is not"),
        (lambda path: changed(path / "size.json", data=[]), "0002: its size.json is damaged"),
        (lambda path: changed(path / "size.json", data={"a": None}), "its size.json is damaged"),
        (lambda path: changed(path / "size.json", params=float("inf")), "its size.json is damaged"),
        (
            lambda path: changed(path / "config.json", num_steps=float("inf")),
            "0002: its config.json is not",
        ),
        (lambda path: (path / "metrics.jsonl").unlink(), "0002 is not finished: step 0"),
    ],
)
def test_damaged_runs_are_named_and_left_out(ladder, damage, said):
    damage(ladder / "trials" / "0002")
    runs = of_folders(ladder)
    assert len(runs) == 11 and said in runs.left_out[0]


DIFFERENT = {
    "task": {"config": {"task": "mae"}},
    "training data": {"size": {"data": {"0 c.zarr": "2e" * 32}}},
    "vocabulary": {"config": {"model.vocab_size": 40}},
    "what is predicted": {"config": {"data.segment_len": 16}},
    "start": {"config": {"init_from": "other"}},
    "unit": {"size": {"unit": "tokens"}},
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_runs_of_different_kinds_are_told_apart(tmp_path, what):
    for number in range(12):
        make_run(tmp_path, number, **(DIFFERENT[what] if number in (3, 7) else {}))
    with pytest.raises(UserError, match=rf"one law has one {what}.*10 like.*2 like.*0003") as error:
        of_folders(tmp_path)
    others = [tmp_path / "trials" / f"{n:04d}" for n in range(12) if n not in (3, 7)]
    assert all(f"{n:04d}" in str(error.value).split("without")[1] for n in (3, 7))
    close(of_folders(*others), [n for n in range(12) if n not in (3, 7)])


def test_recipes_that_differ_are_said(tmp_path, caplog):
    for number in range(12):
        changes = {"optimizer.name": "adamw"} if number == 3 else {"seed": number}
        make_run(tmp_path, number, config=changes)
    assert len(of_folders(tmp_path)) == 12
    assert "differ in optimizer.name: lion (11 runs), adamw (1 runs)" in caplog.text
    assert "seed" not in caplog.text


def test_no_runs_and_too_few(tmp_path):
    with pytest.raises(UserError, match=r"No finished run is in.*scaling ladder"):
        of_folders(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        of_folders(tmp_path / "nowhere")
    for number in range(4):
        make_run(tmp_path, number)
    make_run(tmp_path, 5, losses={5: 3.0})
    with pytest.raises(UserError, match=r"has 4 runs.*1 were left out.*0005 is not finished"):
        of_folders(tmp_path)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "columns", "count"),
    [
        ("chinchilla_points.csv", "params=Model Size,flops=Training FLOP,loss=loss", 245),
        ("overtraining_runs.csv", "params=params,tokens=tokens,loss=loss_c4_val", 104),
    ],
)
def test_published_runs_are_taken_as_they_are(shared, name, columns, count):
    path = shared / "scaling" / name
    runs = observations.of_csv(path, observations.columns_of(columns))
    assert len(runs) == count and not runs.left_out


def test_honest_runs_over_many_decades_are_no_outliers():
    """Runs of known laws, few and far apart, of which one may be wrong."""
    random, found = np.random.default_rng(0), []
    for _ in range(12):
        params, seen = 10 ** random.uniform(6, 10, 10), 10 ** random.uniform(7, 13, 10)
        alpha, beta = random.uniform(0.25, 0.5, 2)
        loss = 1.7 + 10 ** random.uniform(1.5, 3) * params**-alpha + 1000 * seen**-beta
        loss *= np.exp(0.003 * random.standard_normal(10))
        assert not checks.outliers(params, seen, loss).any()
        loss[3] *= 2.5
        away = checks.outliers(params, seen, loss)
        assert set(np.flatnonzero(away)) <= {3}
        found.append(bool(away[3]))
    assert sum(found) >= 10
