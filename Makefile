# make demo | make demo-protein | make test | make lint | make lock. Everything is installed into .venv; nothing else on the machine changes.
PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python

.PHONY: demo demo-protein test lint lock
demo: $(VENV)/core.done
	$(RUN) -m phenomjax.main --config configs/mae_demo.py --workdir runs/mae_demo

demo-protein: $(VENV)/core.done
	$(RUN) -m phenomjax.main --config configs/prot_txl.py:demo --workdir runs/txl_demo

# The proofs on SLURM mostly wait, so they run beside the others; a third worker for all would only get in the way of two on two cores.
test: $(VENV)/dev.done
	@mkdir -p .cache
	$(RUN) -m pytest -n 0 tests/cluster/test_slurm.py >.cache/test_slurm.log 2>&1 & slurm=$$!; \
	$(RUN) -m pytest -n 2 --dist worksteal --ignore=tests/cluster/test_slurm.py; code=$$?; \
	wait $$slurm; slurm=$$?; cat .cache/test_slurm.log; exit $$((code ? code : slurm))

lint: $(VENV)/dev.done
	$(RUN) -m ruff check . && $(RUN) -m ruff format --check . && $(RUN) -m mypy
	$(VENV)/bin/shellcheck launch/*.sbatch .ci/run
	$(VENV)/bin/hadolint launch/Dockerfile
	$(VENV)/bin/yamllint -d '{extends: default, rules: {line-length: {max: 150}, document-start: disable}}' launch/k8s

lock: $(VENV)/dev.done  # the locks hold for every Python from 3.11 on
	$(RUN) -m pip install -q uv
	$(RUN) -m uv pip compile -q --universal --python-version 3.11 --no-emit-index-url pyproject.toml -o requirements.txt
	for extra in cuda convert export openvino logging smiles sweep dev; do $(RUN) -m uv pip compile -q --universal --python-version 3.11 --no-emit-index-url \
	  --extra $$extra -c requirements.txt pyproject.toml -o requirements-$$extra.txt || exit 1; done

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/core.done: requirements.txt | $(VENV)/bin/python
	$(RUN) -m pip install -q --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/dev.done: requirements-dev.txt pyproject.toml | $(VENV)/bin/python
	$(RUN) -m pip install -q --disable-pip-version-check uv  # takes a third of pip's time; where it finds no index, pip may
	$(RUN) -m uv pip install -q -r requirements-dev.txt -e . || $(RUN) -m pip install -q --disable-pip-version-check -r requirements-dev.txt -e .
	touch $@
