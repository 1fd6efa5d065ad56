# make demo: the main job, from a fresh clone.   make test: the whole test suite.   make check: fast checks.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check soak chaos bench bentos docs clean

demo: $(READY)
	$(BIN)/ray-canary demo

# Hundreds of processes import the package: they keep what they have compiled.
test: export PYTHONDONTWRITEBYTECODE =
test: $(READY)
	@command -v prometheus >/dev/null && command -v chromium >/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq prometheus chromium; }
	$(BIN)/python -m pytest -n 2 tests/unit
	$(BIN)/python -m pytest --durations 40 tests/e2e

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A long run with a change every 20 s, RAY_CANARY_SOAK_S=3600 seconds, which prints the tables of docs/operations.md; and
# one at full load, RAY_CANARY_SOAK_LOAD_S=600.
soak: $(READY)
	$(BIN)/python -m pytest -m soak -s tests/e2e/test_soak.py tests/e2e/test_soak_load.py

# Faults under load, and who feels them: prints the tables of docs/operations.md. A quarter of an hour; the last
# part needs root, for network namespaces.
chaos: $(READY)
	@command -v ip >/dev/null || { apt-get update -qq && apt-get install -y -qq iproute2; }
	$(BIN)/python -m pytest -m chaos -s tests/e2e/test_chaos.py tests/e2e/test_chaos_nodes.py tests/e2e/test_chaos_network.py

# What ray-canary costs, beside its alternatives: writes docs/benchmarks.md. It needs a quiet machine and half an hour;
# RAY_CANARY_BENCH_ROUNDS=1 RAY_CANARY_BENCH_SECONDS=1 RAY_CANARY_BENCH_FOLDER=build try it out.
bench: $(READY)
	@command -v wrk >/dev/null && command -v nginx >/dev/null || \
		{ apt-get update -qq && apt-get install -y -qq wrk nginx; }
	$(BIN)/python -m tests.benchmarks

# The three Bentos of the demo, in your Bento store.
bentos: $(READY)
	$(BIN)/python -m ray_canary.demo.build

# The pages that are generated from the code.
docs: $(READY)
	$(BIN)/python -m ray_canary.reference
	$(BIN)/python -m ray_canary.grafana

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "ray-canary needs Python 3.11 or newer; give it with: make PYTHON=python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,console]'
	@touch $@
