"""Every key with its default, one file a family of tasks; the checks; and the configuration on
disk.

What experiment files need: `config.base(task)`, `config.parse_arg`, `config.preset`.
"""

from phenomjax.config.keys import base, finalize, parse_arg, preset

__all__ = ["base", "finalize", "parse_arg", "preset"]
