# make demo: the main job, from a fresh clone.   make test: the whole test suite.   make check: fast checks.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check soak bentos docs clean

demo: $(READY)
	$(BIN)/ray-canary demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A long run: RAY_CANARY_SOAK_S=600 seconds.
soak: $(READY)
	$(BIN)/python -m pytest -m soak -s tests/e2e/test_soak.py

# The three Bentos of the demo, in your Bento store.
bentos: $(READY)
	$(BIN)/python -m ray_canary.demo.build

# The pages that are generated from the code.
docs: $(READY)
	$(BIN)/python -m ray_canary.reference

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ray-canary needs Python 3.11 or newer; give it with: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@
