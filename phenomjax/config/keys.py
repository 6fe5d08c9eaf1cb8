"""Every configuration key with its default, the presets that experiment files compose, and the
checks before a run.

Configs are closed: `base()` holds every key, so a typo is an error, and code reads keys as
attributes only.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from ml_collections import ConfigDict

from phenomjax.config import batches, objectives, ranges, schedules
from phenomjax.config.checks import divides_batch, flatten
from phenomjax.config.ranges import Section, choice, flag, number, several, text, whole
from phenomjax.system.errors import UserError, did_you_mean
from phenomjax.system.user_files import at_step, expanded

OPTIMISERS = ("lion", "adamw", "adam", "lamb", "adagrad")
MOMENTS = OPTIMISERS[:-1]  # those with averages of the gradients
YEARS = 1e9  # seconds: more than any run, and what a thread can wait


def base(task: str = "mae") -> ConfigDict:
    """Returns the complete configuration of a task with all defaults; experiment files override it.

    The sections `model` and `data` are those of the task, for instance phenomjax/config/mae.py.
    """
    return ConfigDict(declare(task).to_dict())


def declare(task: str) -> Section:
    """All keys of a task with their defaults and ranges."""
    c = Section()
    # pretraining objective: a file in phenomjax/tasks, or one of your own, "package.module:Class"
    c.task = text(task)
    # seed of initialisation, data order, crops, masks, drop path, dropout
    c.seed = whole(0, least=0, most=2**32 - 1)
    # optimiser steps of the whole run; schedules end here
    c.num_steps = whole(1000, least=1)
    # save and leave with exit code 75 at this step, as if by a signal; 0 = never
    c.stop_at_step = whole(0, least=0, zero="never")
    # instead of training: try rising learning rates, suggest one, and write the curve into
    # WORKDIR/lr_find
    c.lr_find = flag(False)
    batches.add_keys(c)
    # the run that this one goes on from, with all it has learnt and these settings, in a --workdir
    # of its own: its workdir, or WORKDIR@STEP; "" = none
    c.continue_from = text("")
    # workdir or checkpoint folder whose parameters start this run ("" = random)
    c.init_from = text("")
    # what channels, cell types and tokens begin with that its run did not know: the "mean" of those
    # that it knew (the decoder of a channel-agnostic model, which has layers of its own for each
    # channel, gets a copy of the first), or "fresh" values
    c.init_new = choice("mean", ("mean", "fresh"))
    # names of this run that stand for another of that one: ("DNA=Hoechst", "RNA=SYTO14")
    c.init_names = several(str)
    # patterns (regular expressions of whole names, "head/.*") of parameters that begin anew all
    # the same
    c.init_fresh = several(str)
    # patterns of parameters that stay as they are: no gradient, no optimiser state, no decay.
    # Running statistics of batch norms are none, and go on
    c.freeze = several(str)

    _optimizer(c)
    _mesh_and_log(c)
    _measures(c)
    _endings(c)
    _safety(c)
    objectives.keys_of(task).add_sections(c)
    return c


def _optimizer(c: Section) -> None:
    """How parameters are updated."""
    # how parameters are updated
    c.optimizer = Section()
    # optimiser: "lion", "adamw", "adam", "lamb", "adagrad"
    c.optimizer.name = choice("lion", OPTIMISERS)
    schedules.add_keys(c.optimizer)
    # decay of the running mean of the gradients; of lion, the share of its momentum in an update
    c.optimizer.b1 = number(0.9, least=0, below=1, where=("name", MOMENTS))
    # decay of the running mean of their squares; of lion, of its momentum
    c.optimizer.b2 = number(0.95, least=0, below=1, where=("name", MOMENTS))
    # added to the root of the mean square: of adamw, adam, lamb (1e-6 as published) and adagrad
    c.optimizer.eps = number(1e-8, above=0, where=("name", OPTIMISERS[1:]))
    # what the sum of squares of adagrad begins with
    c.optimizer.initial_accumulator = number(1.0, least=0, where=("name", ("adagrad",)))
    # weight decay of matrices; biases, norms, tokens and LayerScale are never decayed
    c.optimizer.weight_decay = number(
        0.05, least=0, zero="none", where=("name", ("adamw", "lion", "lamb"))
    )
    # gradients whose global norm is larger are scaled down to it; 0.0 = off
    c.optimizer.clip_norm = number(0.0, least=0, zero="off")
    # learning rates fall by this factor from layer to layer, from the head to the input; 1.0 = all
    # the same. 0.65 to 0.85 is usual where a pretrained model is fine-tuned
    c.optimizer.layer_decay = number(1.0, above=0, most=1)
    # micro-batches a step, each global_batch_size / accumulate_steps
    c.optimizer.accumulate_steps = whole(1, least=1)
    # exponential moving average of the parameters, which is what is evaluated, drawn and embedded;
    # 0.0 = none
    c.optimizer.ema_decay = number(0.0, least=0, below=1, zero="none")
    # the average forgets its beginning: before step t it keeps min(ema_decay, (1 + t) / (10 + t)),
    # so that a run that is short for its ema_decay is judged by about its last tenth
    c.optimizer.ema_warmup = flag(True, where=("ema_decay", ()))


def _mesh_and_log(c: Section) -> None:
    """Where the run computes, and what it says."""
    # how devices share the work
    c.mesh = Section()
    # "dp", "fsdp" (parameters sharded over data), "hsdp" (within each of several groups),
    # "fsdp_tp" (over data and model)
    c.mesh.preset = choice("dp", ("dp", "fsdp", "hsdp", "fsdp_tp"))
    # devices on the data axis; -1 = all that are left
    c.mesh.data = whole(-1, least=1, also=-1)
    # of hsdp: groups of devices that each hold all parameters; -1 = a group is a node
    c.mesh.replica = whole(-1, least=1, also=-1)
    # devices on the model axis
    c.mesh.model = whole(1, least=1)

    # what the run says, and where
    c.log = Section()
    # steps between two lines of the log and of metrics.jsonl
    c.log.every_steps = whole(50, least=1)
    # write event files of TensorBoard, when tensorboardX is installed
    c.log.tensorboard = flag(True)
    # Weights & Biases project; "" = off
    c.log.wandb_project = text("")
    wandb = ("wandb_project", ())
    # name of its run; "" = the folder's name
    c.log.wandb_name = text("", where=wandb)
    # its team or user; "" = yours
    c.log.wandb_entity = text("", where=wandb)
    # its group, of runs that stand together; "" = none, and of a trial its sweep
    c.log.wandb_group = text("", where=wandb)
    # its tags
    c.log.wandb_tags = several(str, where=wandb)
    # MLflow experiment; "" = off
    c.log.mlflow_experiment = text("")
    # each process writes the ids of its rows to logs/samples_*.jsonl: what was read at which
    # step
    c.log.sample_ids = flag(False)

    # a trace of some steps in WORKDIR/profile, and a table of where their time went
    c.profile = Section()
    # the first of them, from 1 on; 0 = never
    c.profile.start_step = whole(0, least=0, zero="never")
    # so many of them
    c.profile.num_steps = whole(3, least=1, where=("start_step", ()))
    # the processes that record; () = all
    c.profile.processes = several(int, (0,), least=0, where=("start_step", ()))

    # names a process that the others wait for, in runs of several
    c.stragglers = Section()
    # what is timed: "devices" (hosts, and devices by looks at them that take .3 % of the time),
    # "host", "off"
    c.stragglers.watch = choice("devices", ("devices", "host", "off"))


def _measures(c: Section) -> None:
    """What is measured and drawn of the model while it trains."""
    # validation: the loss and other measures of rows that are held out
    c.eval = Section()
    # steps between two validations; 0 = never
    c.eval.every_steps = whole(500, least=0, zero="never")
    # also before the first step, as are the probes: what random or loaded parameters are worth
    c.eval.at_start = flag(False)
    # batches of held-out rows, the same at every evaluation; 0 = all of the split: each image once,
    # with a crop of its own, neither flipped nor turned; each token once, in lanes of 4 to 32
    # segments (more where there are more tokens), the first of which has no memory. What comes of
    # it does not depend on batch_size, accumulate_steps or the devices
    c.eval.num_batches = whole(4, least=0, zero="all of the split")
    # rows of each; 0 = global_batch_size. Where num_batches is not 0, which rows are read depends
    # on it; and always what val/accuracy_adabn takes its statistics over
    c.eval.batch_size = whole(0, least=0, zero="global_batch_size")
    # seed of their order and crops; -1 = seed. Runs of several batches or seeds are judged on the
    # same rows where this and batch_size are the same
    c.eval.seed = whole(-1, least=0, most=2**32 - 1, also=-1)

    # pictures of what the model makes of its rows, in WORKDIR/figures
    c.figures = Section()
    # steps between two of them; 0 = only at the end of the run
    c.figures.every_steps = whole(0, least=0, zero="only at the end")
    # images, or rows of tokens, that are drawn; 0 = no figures
    c.figures.num_images = whole(4, least=0, zero="no figures")

    # downstream tasks on the frozen parameters while training; for models of sequences
    c.probes = Section()
    # steps between two probings, of which one comes at the end; 0 = never. Process 0 computes, with
    # its own devices, while the others wait
    c.probes.every_steps = whole(0, least=0, zero="never")
    # the suite, FILE or FILE:ARG, as of `python -m phenomjax.evaluate`
    c.probes.suite = text("configs/eval/protein.py:quick")
    # folder of the suite's data; "" = where the suite says
    c.probes.data = text("")

    # the forecast that a run is judged by
    c.scaling = Section()
    # file that `python -m phenomjax.scaling forecast` wrote: its band stands beside val/loss, and
    # the run is judged by it; "" = none
    c.scaling.forecast = text("")


def _endings(c: Section) -> None:
    """What ends a run before `num_steps`."""
    # what ends a run before num_steps
    c.stop_early = Section()
    # the run is done when this has not got better for a while: a metric as of
    # checkpoint.best_metric; "" = never
    c.stop_early.metric = text("")
    # evaluations in a row that are not better than the best before
    c.stop_early.patience = whole(5, least=1)
    # by no more than this does not count as better
    c.stop_early.min_delta = number(0.0, least=0)


def _safety(c: Section) -> None:
    """What is kept, and what ends or mends a run."""
    # what is saved, when, and what is kept
    c.checkpoint = Section()
    # steps between two checkpoints
    c.checkpoint.every_steps = whole(500, least=1)
    # and minutes, checked at log steps; 0.0 = off
    c.checkpoint.every_minutes = number(30.0, least=0, zero="off")
    # so many of the newest are kept
    c.checkpoint.keep_latest = whole(2, least=1)
    # every multiple of it is saved and stays for good, besides the latest and the best; 0 = none
    c.checkpoint.keep_every_steps = whole(0, least=0, zero="none")
    # so many of the best are kept. Unless it is 0, every step with a value of best_metric is saved
    c.checkpoint.keep_best = whole(1, least=0, zero="none")
    # what the best is judged by: "val/loss", another of the objective's measures (VALIDATED in the
    # module with its keys, such as "val/accuracy"), or one of the probes, "probe/TASK/LABEL/METRIC"
    # as in the log
    c.checkpoint.best_metric = text("val/loss")
    # so often the state is copied into the memory of two nodes, where launch/standby.py started the
    # run; 0 = off
    c.checkpoint.memory_every_steps = whole(0, least=0, zero="off")
    # a write that takes longer ends the run
    c.checkpoint.timeout_seconds = number(1200.0, above=0, most=YEARS)

    # ends a run that hangs, with exit code 76 and the stacks of all threads
    c.watchdog = Section()
    # a step may take this long, or 20 times the median step, whichever is longer; 0.0 = off
    c.watchdog.min_seconds = number(300.0, least=0, most=YEARS, zero="off")
    # a compilation, checkpoint or restore may take this long
    c.watchdog.slow_seconds = number(3600.0, above=0, most=YEARS)

    # what happens when the loss is no number any more
    c.divergence = Section()
    # "stop", or "rollback": last good checkpoint, skip the window's data, go on
    c.divergence.action = choice("stop", ("stop", "rollback"))
    # a larger gradient norm counts as diverged; 0.0 = only non-finite values do
    c.divergence.max_grad_norm = number(0.0, least=0, zero="off")
    # rollbacks of a run; the divergence after them ends it
    c.divergence.max_rollbacks = whole(3, least=0, where=("action", ("rollback",)))


def parse_arg(arg: str, **options: Any) -> dict[str, Any]:
    """Reads the argument behind `--config FILE:ARG`, e.g. "L/8,mask=0.75".

    Args:
      arg: comma-separated items; the one without "=" is the model size.
      **options: allowed names with their defaults; a value takes the default's type. `size` names
        the model preset.

    Returns:
      All options with their values.

    Raises:
      UserError: an unknown name or a value of another type.
    """
    values = dict(options)
    for item in filter(None, arg.split(",")):
        name, _, text = item.partition("=") if "=" in item else ("size", "", item)
        if name not in options:
            raise UserError(
                f"The preset '{arg}' has no option '{name}'.{did_you_mean(name, options)} Options:"
                f" {', '.join(options)}."
            )
        try:
            kind = type(options[name])
            values[name] = (
                {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
            )
        except (KeyError, ValueError):
            raise UserError(
                f"The preset '{arg}' gives {name}={text}, which is not a {kind.__name__}."
            ) from None
    return values


def preset(arg: str, known: Iterable[str]) -> str:
    """The preset behind `--config FILE:ARG` for files whose only option is its name."""
    if arg not in known:
        raise UserError(
            f"There is no preset '{arg}'.{did_you_mean(arg, known)} There are: {', '.join(known)}."
        )
    return arg


def _at_home(value: Any) -> Any:
    """A value with all its paths that begin with `~` in full."""
    if isinstance(value, dict):
        return {key: _at_home(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_at_home, value))
    return expanded(value) if isinstance(value, str) else value


def finalize(config: ConfigDict) -> ConfigDict:
    """Checks what can be checked before a device is touched and returns a locked copy.

    Raises:
      UserError: names the key, its value and a value that works.
    """
    c = ConfigDict(_at_home(config.to_dict()))  # resolves references
    known, own = set(flatten(base(c.task))), objectives.keys_of(c.task)
    if unknown := [key for key in flatten(c) if key not in known]:
        key, rooms = unknown[0], f"phenomjax/config/keys.py and {own.__name__.replace('.', '/')}.py"
        others = (
            f" {len(unknown) - 1} more are none either: these are keys of another task than"
            f" config.task '{c.task}'. Give an experiment of that task, or leave config.task as the"
            " experiment has it."
        )
        raise UserError(
            f"config.{key} is not a key.{did_you_mean(key, known)} All keys stand in {rooms}."
            + others * (len(unknown) > 3)
        )
    ranges.check(flatten(c), declare(c.task))
    batches.check(c)
    divides_batch(c, "optimizer.accumulate_steps")
    schedules.check(c)
    _check_measures(c, ("val/loss", *getattr(own, "VALIDATED", ())))
    if c.lr_find and c.continue_from:
        run, step = at_step(c.continue_from)
        parameters = run if step is None else f"{run}/checkpoints/{step}"
        raise UserError(
            "config.lr_find tries rates from the first step on, which a run that goes on from"
            f" config.continue_from={c.continue_from} does not begin with. Set"
            f" --config.init_from={parameters} --config.continue_from='', to find the rate of"
            " its parameters, or --config.lr_find=false."
        )
    if c.scaling.forecast and not c.eval.every_steps:
        raise UserError(
            f"config.scaling.forecast is {c.scaling.forecast}, but config.eval.every_steps is 0:"
            " nothing is measured that could be judged by it. Set --config.eval.every_steps, e.g."
            f" to {c.checkpoint.every_steps}, or --config.scaling.forecast=''."
        )
    _check_beginning(c)
    _check_profile(c)
    own.check(c)
    return c.lock()


def _check_beginning(c: ConfigDict) -> None:
    """Checks that what `init_from` alone reads is read."""
    for key, default in (("init_new", "mean"), ("init_names", ()), ("init_fresh", ())):
        if not c.init_from and c[key] != default:
            raise UserError(
                f"config.{key} is {c[key]}, but config.init_from is '': all parameters begin fresh,"
                " and nothing reads it. Name the run whose parameters are taken in"
                f' config.init_from, or set --config.{key}="{default}".'
            )


def _check_profile(c: ConfigDict) -> None:
    """Checks that the steps that are profiled are steps of the run."""
    first, count = c.profile.start_step, c.profile.num_steps
    fits = min(count, c.num_steps)
    if first and first + count - 1 > c.num_steps:
        raise UserError(
            f"config.profile asks for steps {first} to {first + count - 1}, but config.num_steps"
            f" is {c.num_steps}: the run has none beyond. Set --config.profile.start_step="
            f"{c.num_steps - fits + 1} --config.profile.num_steps={fits}."
        )


def _check_measures(c: ConfigDict, validated: Sequence[str]) -> None:
    """Checks what is measured, and that what judges is among it: one of `validated`, or a probe;
    the suite itself is read when the run starts.
    """
    if c.probes.every_steps and "alphabet" not in c.model:
        raise UserError(
            f"config.probes.every_steps is {c.probes.every_steps}, but config.task '{c.task}' reads"
            " no sequences: there is nothing to probe. Set --config.probes.every_steps=0."
        )
    every = {"val": c.eval.every_steps, "probe": c.probes.every_steps}
    if c.eval.at_start and not any(every.values()):
        raise UserError(
            "config.eval.at_start is True, but config.eval.every_steps is 0: there is nothing to"
            f" measure. Set --config.eval.every_steps={c.checkpoint.every_steps}, say, or"
            " --config.eval.at_start=False."
        )
    judges = [("checkpoint.best_metric", c.checkpoint.best_metric, "val/loss")]
    if c.stop_early.metric:
        judges.append(("stop_early.metric", c.stop_early.metric, "''"))
    for key, metric, default in judges:
        if metric not in validated and not metric.startswith("probe/"):
            raise UserError(
                f"config.{key} is '{metric}'.{did_you_mean(metric, (*validated, 'probe/'))} It can"
                f" be {', '.join(validated)}, or probe/TASK/LABEL/METRIC of the tasks in"
                " config.probes.suite, e.g. probe/secondary_structure/q3/accuracy."
            )
        kind = metric.split("/")[0]
        # without any validation nobody is the best
        if not every[kind] and (kind == "probe" or key == "stop_early.metric"):
            section, what = ("probes", "probed") if kind == "probe" else ("eval", "validated")
            raise UserError(
                f"config.{key} is '{metric}', but nothing is {what}. Set"
                f" --config.{section}.every_steps, e.g. to {c.checkpoint.every_steps}, or"
                f" --config.{key}={default}."
            )
