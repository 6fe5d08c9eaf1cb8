"""Writes the pages of the reference at each build of the site."""

import functools

import mkdocs_gen_files

from docs.generate import api, commands, configuration, environment, errors, exit_codes, formats
from docs.generate.experiments import page as experiments

PAGES = {
    "api/index": api.index,
    **{f"api/{room}": functools.partial(api.page, room) for room in api.ROOMS},
    "commands": commands.index,
    **{f"commands/{name}": functools.partial(commands.page, name) for name in commands.commands()},
    "configuration": configuration.page,
    "environment": environment.page,
    "errors": errors.index,
    **{f"errors/{name}": functools.partial(errors.page, name) for name in errors.PAGES},
    "exit-codes": exit_codes.page,
    "experiments": experiments,
    "formats": formats.page,
}

for name, page in PAGES.items():
    with mkdocs_gen_files.open(f"reference/{name}.md", "w") as file:
        file.write(page())
