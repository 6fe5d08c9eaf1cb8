# make demo | make demo-protein | make test | make lint | make docs | make notebooks | make dev | make lock. Everything is installed into .venv; nothing else on the machine changes.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo demo-protein test lint docs notebooks dev lock
demo: $(VENV)/core.done
	$(RUN) -m phenomjax.main --config configs/mae_demo.py --workdir runs/mae_demo

demo-protein: $(VENV)/core.done
	$(RUN) -m phenomjax.main --config configs/prot_txl.py:demo --workdir runs/txl_demo

# The proofs on SLURM and of whole sweeps mostly wait, so they run beside the others, with the pages, which share what they train. Of the rest a third of the time is waiting for processes: a third worker computes then.
test: $(VENV)/dev.done
	@mkdir -p .cache
	$(RUN) -m pytest -n 0 tests/*/test_*slurm.py tests/sweep/test_sweep_run.py tests/colab tests/docs >.cache/test_slurm.log 2>&1 & slurm=$$!; \
	$(RUN) -m pytest -n 3 --dist worksteal --ignore-glob='*/test_*slurm.py' --ignore=tests/sweep/test_sweep_run.py --ignore=tests/colab --ignore=tests/docs; code=$$?; \
	wait $$slurm; slurm=$$?; cat .cache/test_slurm.log; exit $$((code ? code : slurm))

lint: $(VENV)/dev.done
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy && $(VENV)/bin/lint-imports --no-cache
	$(RUN) -m docs.generate.check_links
	$(VENV)/bin/shellcheck launch/*.sbatch .ci/run
	$(VENV)/bin/check-jsonschema -q --builtin-schema vendor.citation-file-format CITATION.cff
	$(VENV)/bin/check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema -q --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	$(VENV)/bin/check-jsonschema -q --builtin-schema vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	$(RUN) -m json.tool .devcontainer/devcontainer.json >/dev/null
	$(VENV)/bin/pre-commit validate-config && $(VENV)/bin/nbstripout --keep-id --verify colab/*.ipynb
	$(VENV)/bin/hadolint launch/Dockerfile
	$(VENV)/bin/yamllint -d '{extends: default, rules: {line-length: {max: 150}, document-start: disable}}' launch/k8s

docs: $(VENV)/dev.done  # the site, into .cache/site: open .cache/site/index.html
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(RUN) -m mkdocs build --strict --quiet

notebooks: $(VENV)/dev.done  # runs those of colab/ at full length, some minutes each, and writes their pages in docs/tutorials
	$(RUN) -m docs.generate.notebooks

dev: $(VENV)/dev.done  # to work on the code: everything, and checks before each commit
	$(VENV)/bin/pre-commit install

lock: $(VENV)/dev.done  # for every Python from 3.11 on
	$(RUN) -m uv lock
	$(RUN) -m uv export -q --frozen --no-emit-project --no-hashes -o requirements.txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

# From the lock by uv, which takes a third of pip's time; where uv finds no index, pip may. Compiled here, as pip does it,
# every later start of Python takes half the time.
UV = $(RUN) -m pip install -q --disable-pip-version-check uv && \
  UV_COMPILE_BYTECODE=1 UV_PROJECT_ENVIRONMENT=$(VENV) $(RUN) -m uv sync -q --frozen --inexact
PIP = $(RUN) -m pip install -q --disable-pip-version-check

$(VENV)/core.done: uv.lock requirements.txt pyproject.toml | $(VENV)/bin/python
	$(UV) || $(PIP) -r requirements.txt -e .
	touch $@

$(VENV)/dev.done: uv.lock pyproject.toml | $(VENV)/bin/python
	$(UV) --extra dev || $(PIP) -c requirements.txt -e '.[dev]'
	touch $@
