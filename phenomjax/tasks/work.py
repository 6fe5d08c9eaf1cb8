"""How much a step computes: the task's model FLOPs, less the backward work that `freeze` spares."""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from phenomjax.models import parameter_names
from phenomjax.system.types import Batch, Params
from phenomjax.tasks.protocol import Task


def step_flops(task: Task, config: ConfigDict, params: Params, batch: Batch) -> float:
    """Model FLOPs of a training step.

    Where all parameters are trained that is the task's own count. With `freeze` it is multiplied by
    the share that is left of the products of the loss (of matrices, and convolutions) with their
    gradients: a product counts once forward, and once more for each of its two factors that is, or
    depends on, something trained. So what comes before all that is trained counts a third, and a
    frozen layer behind it two thirds.

    Args:
      task: of the run.
      config: of it, resolved.
      params: of the model, or their shapes.
      batch: global, or its shapes.
    """
    if not config.freeze:
        return task.flops(batch)
    params = nn.meta.unbox(params)
    trained, _ = parameter_names.divide(params, config.freeze)
    carry = jax.eval_shape(lambda: task.carry(len(next(iter(batch.values())))))
    key = jax.eval_shape(lambda: jax.random.key(0))
    loss = lambda *args: task.loss(*args)[0]  # noqa: E731
    program = jax.make_jaxpr(loss)(params, batch, key, carry).jaxpr
    leaves = jax.tree.leaves(trained, is_leaf=lambda leaf: leaf is None)
    rest = [False] * (len(program.invars) - len(leaves))
    part, _ = _work(program, [leaf is not None for leaf in leaves] + rest)
    whole, _ = _work(program, [True] * len(leaves) + rest)
    return task.flops(batch) * (part / whole if whole else 1.0)  # one from outside may have none


def _work(program: Any, trained: Sequence[bool]) -> tuple[float, list[bool]]:
    """The work of a traced program.

    Args:
      program: a jaxpr.
      trained: which of its inputs are, or depend on, something trained.

    Returns:
      (FLOPs of its products and their gradients, 2 a multiply-add; which outputs depend on it).
    """
    known, total = dict(zip(program.invars, trained, strict=True)), 0.0
    depends = lambda x: not hasattr(x, "val") and known.get(x, False)  # noqa: E731
    for equation in program.eqns:
        given = [depends(x) for x in equation.invars]
        total += _product(equation) * (1 + sum(given))
        made = [any(given)] * len(equation.outvars)
        if equation.primitive.name == "optimization_barrier":  # its arrays stay apart
            made = given
        for inner in _inner(equation):
            # what a loop or a choice alone reads stands before what its program does
            given = given[len(given) - len(inner.invars) :]
            work, made = _work(inner, given)
            if equation.primitive.name == "scan":
                first, carried = (equation.params[key] for key in ("num_consts", "num_carry"))
                given[first : first + carried] = made[:carried]  # of the turn before
                work, made = _work(inner, given)
                work *= equation.params["length"]
            total += work
        known |= dict(zip(equation.outvars, made, strict=True))
    return total, [depends(x) for x in program.outvars]


def _product(equation: Any) -> float:
    """FLOPs of an equation that is a product; 0 of any other."""
    kind = equation.primitive.name
    if kind not in ("dot_general", "conv_general_dilated"):
        return 0.0
    size, names = math.prod(equation.outvars[0].aval.shape), equation.params["dimension_numbers"]
    first, second = (x.aval.shape for x in equation.invars)
    if kind == "dot_general":
        return 2.0 * size * math.prod(first[axis] for axis in names[0][0])
    return 2.0 * size * math.prod(second) / second[names.rhs_spec[0]]


def _inner(equation: Any) -> list[Any]:
    """The programs within an equation."""
    found = []
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                found.append(each)
    return found
