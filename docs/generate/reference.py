"""Writes the pages of the reference at each build of the site."""

import mkdocs_gen_files

from docs.generate import configuration, environment, experiments

PAGES = {
    "configuration": configuration.page,
    "environment": environment.page,
    "experiments": experiments.page,
}

for name, page in PAGES.items():
    with mkdocs_gen_files.open(f"reference/{name}.md", "w") as file:
        file.write(page())
