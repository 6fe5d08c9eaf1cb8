"""Commands as their doors run them, but in this process and with its log."""

import dataclasses
import shlex
from unittest import mock

from phenomjax.system import ending, outputs
from phenomjax.system.errors import UserError
from phenomjax.system.help_pages import with_flags
from phenomjax.system.options import parse


def run_as_door(module, words):
    """Runs a command's module on the words of a command line; settings in errors are flags. Maps
    that a test itself has written before are written anew.
    """
    options = parse(module.Options, [str(word) for word in words], "command", "")
    if module.__name__.startswith("phenomjax.maps.") and hasattr(options, "overwrite"):
        options = dataclasses.replace(options, overwrite=True)
    try:
        outputs.check(options)
        return module.run(options)
    except UserError as error:
        names = [field.name for field in dataclasses.fields(module.Options)]
        raise UserError(with_flags(str(error), names), error.exit_code) from error


def offered(run, command, module):
    """The options that the one command comes to which another offers at its end.

    Args:
      run: the other one.
      command: how the offered one begins.
      module: that runs it.
    """
    lines = list[str]()

    def then(what, text, *values):
        lines.append(text.format(*(shlex.quote(str(value)) for value in values)))

    with mock.patch.object(ending, "then", then):
        assert run() in (0, None)
    (line,) = lines
    assert line.startswith(f"python -m {command} "), line
    words = shlex.split(line.removeprefix(f"python -m {command} "))
    return parse(module.Options, words, command, "")
