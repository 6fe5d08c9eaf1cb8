"""Reads the file of an evaluation suite."""

from phenomjax.probes.suite import Suite


def load(spec: str, data: str = "") -> Suite:
    """Calls `get_config` of a suite file.

    Args:
      spec: FILE or FILE:ARG.
      data: folder of the data instead of the suite's; "" = the suite's.

    Raises:
      UserError: the file is missing or wrong; names the place and the key.
    """
    raise NotImplementedError
