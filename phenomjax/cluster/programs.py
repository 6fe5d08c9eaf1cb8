"""Compiled programs that outlive the processes of a run, in the memory of its keepers: the next
start traces and lowers its step, and takes the program of the one before. For several CPU
processes, which JAX's own cache does not serve (`start.use_compilation_cache`).
"""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence

import jax
import jaxlib
from jax.experimental import serialize_executable

from phenomjax.cluster import messages
from phenomjax.standby.client import open_keepers

log = logging.getLogger("phenomjax")


def compiled(
    lowered: jax.stages.Lowered, compile: Callable[[], jax.stages.Compiled]
) -> jax.stages.Compiled:
    """A lowered program, as keepers hold it, or compiled. All processes call it together, and
    either all take the held one or all compile.

    Args:
      lowered: program.
      compile: compiles it.
    """
    keepers = open_keepers()
    # JAX's own cache, where there is one, does the same; and a program that comes from it cannot be
    # written down again.
    if keepers is None or jax.config.jax_compilation_cache_dir:
        return compile()
    name, data, found = _name(lowered), None, None
    try:
        if data := keepers.fetch(name):
            trees = lowered.in_tree, lowered.out_tree
            found = serialize_executable.deserialize_and_load(data, *trees)
    except Exception as error:
        log.warning("the program that a keeper holds is not used: %s", error)
    if all(messages.gather("program found", found is not None)) and found is not None:
        log.info("the program is one of an earlier start, from a keeper's memory")
        made = found
    else:
        made, data = compile(), None
    try:
        if messages.is_main():  # also a found one: the keepers that had it may be others
            data = data or serialize_executable.serialize(made)[0]
            for address in keepers.all[:2]:
                keepers.store(address, name, memoryview(data))
    except Exception as error:  # such as a program that cannot be written down
        log.warning("no keeper holds the program for the next start: %s", error)
    return made


def _name(lowered: jax.stages.Lowered) -> str:
    """What a program is made from, and by what, in one word."""
    parts: Sequence[object] = (
        lowered.as_text(),
        os.environ.get("XLA_FLAGS"),
        jax.__version__,
        jaxlib.__version__,
        jax.process_count(),
        [(device.id, device.process_index, device.device_kind) for device in jax.devices()],
        sorted((name, str(value)) for name, value in jax.config.values.items()),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()
