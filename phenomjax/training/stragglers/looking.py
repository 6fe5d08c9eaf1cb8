"""Looks at the devices for two steps: how long each of them waited for the others."""

import time

from jax.profiler import ProfileData, ProfileOptions

from phenomjax.training import trace


class Look:
    """A trace that is held in memory and never written, from its making on.

    Only one can be taken at a time: a `RuntimeError` says that another profiler is at work.
    """

    def __init__(self) -> None:
        # The public `stop_trace` writes the trace as JSON too, which takes ten times as long.
        from jax._src.lib import _profiler

        options = ProfileOptions()
        options.python_tracer_level, options.enable_hlo_proto = 0, False
        self._began = time.thread_time()
        self._session = _profiler.ProfilerSession(options)
        self._cost = time.thread_time() - self._began

    def end(self, begin: int, end: int) -> tuple[dict[str, float], float]:
        """Ends the trace, and reads it.

        Args:
          begin, end: the time that is looked at, in ns since the epoch.

        Returns:
          ({device: share of the time in which it waited for others}, CPU seconds that it cost).
        """
        before = time.thread_time()
        data = ProfileData.from_serialized_xspace(self._session.stop())
        found = trace.waiting(data, begin, end)
        return found, self._cost + time.thread_time() - before
