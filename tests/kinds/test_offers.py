"""What an error offers is there: every flag that a text names is one of each command that can print
it, and every command line that it gives is one of ours.
"""

import pytest

from tests.kinds import offers

# Texts that may name what a command that reaches them does not have, with the reason.
EXCEPTIONS = {
    "phenomjax.embed:what": "it tells images and sequences apart before either command runs",
    "phenomjax.probes.reports.text:LARGER": "the words behind `python -m phenomjax.main --config`",
    "phenomjax.prepare.__main__:COMMANDS": "help of the commands",
    "phenomjax.config.image_data:check": "the words behind `python -m phenomjax.prepare`",
    "phenomjax.trained.graphs.onnx_file:convert": "only `export` gives another opset",
    "phenomjax.engine.slurm:SCRIPT": "options of SLURM and Dask, in a batch script",
    "phenomjax.engine.slurm:ON_GPUS": "options of Dask, in a batch script",
    "phenomjax.engine.slurm:script_of": "options of Dask, in a batch script",
    "phenomjax.prepare.mirror.checks:check": "who publishes a result has a work folder of its own",
    "phenomjax.prepare.mirror.checks:check_room": "who publishes a result copies into a store",
    "phenomjax.prepare.mirror.planning:_make": "who publishes a result copies all of it",
}
# (module, command that prints its texts beside a command line of another, whose flags they name).
QUOTED = {
    ("phenomjax.data.sequences.formats.columns", "phenomjax.prepare inspect"),
    ("phenomjax.prepare.inspect.source_files", "phenomjax.prepare inspect"),
}
# Readers of tables of any make, whose texts name what `maps` is told of these.
FORMATS = ("annotated", "embeddings", "features", "notes", "numeric", "objects")
TABLES = ("columns", "reading", *(f"formats.{name}" for name in FORMATS))
# (module, command that reaches it, but with what cannot raise its errors): training hands over its
# own model, and asks for all devices, as `evaluate` does.
SPARED = {
    ("phenomjax.trained.opening", "phenomjax.main"),
    ("phenomjax.inference.workers", "phenomjax.main"),
    ("phenomjax.inference.sequences.cluster", "phenomjax.main"),
    ("phenomjax.inference.sequences.cluster", "phenomjax.evaluate"),
    # it embeds every image whole, by JAX, at the last block, and all of it
    ("phenomjax.inference.images.domains", "phenomjax.evaluate perturbations"),
    ("phenomjax.inference.images.estimate", "phenomjax.evaluate perturbations"),
    ("phenomjax.inference.images.job", "phenomjax.evaluate perturbations"),
    ("phenomjax.inference.images.options", "phenomjax.evaluate perturbations"),
    ("phenomjax.inference.images.plan", "phenomjax.evaluate perturbations"),
    ("phenomjax.inference.images.stages", "phenomjax.evaluate perturbations"),
    ("phenomjax.inference.runtimes.choose", "phenomjax.evaluate perturbations"),
    ("phenomjax.trained.image_model", "phenomjax.evaluate perturbations"),
    # they read the maps alone that their own steps have just written, tables of ours
    *((f"phenomjax.maps.tables.{name}", "phenomjax.maps demo") for name in TABLES),
    *((f"phenomjax.maps.tables.{name}", "phenomjax.scaling recall") for name in TABLES),
    # they give its flags themselves
    ("phenomjax.prepare.simulate", "phenomjax.maps demo"),
    ("phenomjax.prepare.simulate", "phenomjax.scaling recall"),
    # its study has one setting, and lies in a folder that it has just written to
    ("phenomjax.sweep.study", "phenomjax.scaling ladder"),
}
# Of SLURM, in texts about a job, of bioformats2raw, of xprof, and of CSS.
FOREIGN = {"ntasks_per_node", "gpus_per_node", "no_hcs", "logdir", "hue"}
# There words in backquotes are keys of a suite's file.
KEYS_OF_FILES = "phenomjax.probes.suites."


def prose():
    """Texts that a reader sees, without the command lines of other programs."""
    for one in offers.texts():
        if one.text.count(" ") > 2 and f"{one.node[0]}:{one.node[1]}" not in EXCEPTIONS:
            yield one, offers.OTHERS.sub("", one.text)


def all_flags():
    return frozenset().union(*(flags for _, flags in offers.doors().values()))


def test_every_command_is_looked_at():
    from phenomjax.__main__ import COMMANDS

    programs = {one.split()[0] for one in offers.doors()}
    assert {module for module, _ in COMMANDS.values()} <= programs
    reached = set().union(*(offers.reached(one) for one in offers.doors()))
    texts = [one for one in offers.texts() if one.error]
    seen = [one for one in texts if one.node in reached]
    assert len(texts) > 500 and len(seen) > 0.95 * len(texts)


def test_flags_of_texts_exist_in_the_commands_that_print_them():
    wrong = []
    for one, text in prose():
        commands = [
            c
            for c in offers.doors()
            if one.node in offers.reached(c) and (one.node[0], c) not in QUOTED | SPARED
        ]
        rest = offers.COMMAND.sub("", text)
        wanted = {flag.replace("-", "_") for flag in offers.FLAG.findall(rest)} - FOREIGN
        if one.error and not one.node[0].startswith(KEYS_OF_FILES):
            wanted |= set(offers.SETTING.findall(rest)) & all_flags()
        for flag in sorted(wanted):
            lacking = [c for c in commands if flag not in offers.doors()[c][1]]
            if lacking:
                wrong.append(f"{one.place} offers --{flag}, which {', '.join(lacking)} lack")
    assert not wrong, "\n".join(wrong)


def test_command_lines_of_texts_exist():
    wrong = []
    for one, text in prose():
        for name, rest in offers.COMMAND.findall(text):
            commands = offers.named(name, rest)
            flags = {flag.replace("-", "_") for flag in offers.FLAG.findall(rest)}
            has = set().union(*(offers.doors()[c][1] for c in commands))
            if not commands:
                wrong.append(f"{one.place}: there is no command {name}{rest}")
            wrong += [f"{one.place}: {name} has no --{flag}" for flag in sorted(flags - has)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("entry", EXCEPTIONS)
def test_exceptions_are_still_needed(entry):
    assert any(f"{one.node[0]}:{one.node[1]}" == entry for one in offers.texts())
