"""Commands as their doors run them, but in this process and with its log."""

import dataclasses

from phenomjax.system.errors import UserError
from phenomjax.system.help_pages import with_flags
from phenomjax.system.options import parse


def run_as_door(module, words):
    """Runs a command's module on the words of a command line; settings in errors are flags."""
    options = parse(module.Options, [str(word) for word in words], "command", "")
    try:
        return module.run(options)
    except UserError as error:
        names = [field.name for field in dataclasses.fields(module.Options)]
        raise UserError(with_flags(str(error), names), error.exit_code) from error
