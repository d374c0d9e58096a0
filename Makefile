# `make` or `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
INTEROP_VENV ?= .venv-interop
ARGS ?=
SHARD ?=
INTEROP_TESTS := $(foreach name,brax gymnax pettingzoo sb3,tests/adapters/test_$(name).py) tests/project/test_ppo_peers.py

BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --disable-pip-version-check

# The core, its primitives under every transformation, an environment's contract, Gymnasium, a training.
SMOKE_TESTS := $(addprefix tests/,project/test_packaging.py physics/test_jaxlib_miscompilation.py physics/core \
  physics/neighbors/test_sum.py physics/neighbors/test_lists.py physics/integrators/test_deterministic.py \
  envs/test_env_contract.py adapters/test_gymnasium.py agents/test_cli.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test smoke slow notebooks interop lint format bench agents agents-quick clean

help: ## list the targets
	@echo 'usage: make TARGET [PYTHON=python3] [VENV=.venv] [ARGS="more arguments for the command"]'
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(VENV)/.installed-core ## train a flock: a learning curve, a checkpoint and a film in runs/
	$(BIN)/dmdenv train flocking --agent apg $(ARGS)

test: $(VENV)/.installed-dev ## run the tests, but for the slow ones
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

smoke: $(VENV)/.installed-test ## run a selection of two minutes, for one more Python or JAX
	$(BIN)/python -m pytest -n 2 --dist worksteal $(SMOKE_TESTS) $(ARGS)

slow: $(VENV)/.installed-dev ## run all tests, compiled as users do; SHARD=2/6: the second of six parts
	$(BIN)/python -m pytest -n 2 --dist worksteal --optimized -m '' $(addprefix --shard ,$(SHARD)) $(ARGS)

notebooks: $(VENV)/.installed-dev ## execute the notebooks, each in a fresh kernel; ARGS=--quick: at small sizes
	$(BIN)/python .ci/run_notebooks.py $(ARGS)

interop: $(INTEROP_VENV)/.installed-interop ## test the adapters with SB3, Brax, gymnax and rejax (brings torch: .venv-interop)
	$(INTEROP_VENV)/bin/python -m pytest -n 2 --dist worksteal -m 'slow or not slow' $(INTEROP_TESTS) $(ARGS)

lint: $(VENV)/.installed-dev ## check format, style, layers and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev ## format, and mend what ruff can mend by itself
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

bench: $(BENCH_VENV)/.installed-benchmarks ## compare speed with JAX MD (in an environment of its own: .venv-bench)
	$(BENCH_VENV)/bin/python -m benchmarks $(ARGS)

agents: $(VENV)/.installed-core ## measure every agent on every task (hours), and write docs/agents.md
	$(BIN)/python -m benchmarks.agents --processes 2 $(ARGS)
	$(BIN)/python -m benchmarks.agents_report

agents-quick: $(VENV)/.installed-core ## measure every agent on three tasks (ten minutes), and print the tables
	$(BIN)/python -m benchmarks.agents --quick --processes 2 --folder runs/agents-quick $(ARGS)
	$(BIN)/python -m benchmarks.agents_report --folder runs/agents-quick --no-write

clean: ## remove caches and build products; keeps the virtual environments and runs/
	rm -rf build dist dmdenv.egg-info .cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -path './.*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp in the virtual environment says what has been installed there; only a change of pyproject.toml installs again.

$(VENV)/.created $(BENCH_VENV)/.created $(INTEROP_VENV)/.created: %/.created:
	@command -v $(PYTHON) >/dev/null || { \
	  echo 'error: there is no $(PYTHON); name a Python of 3.11 or newer: make PYTHON=/path/to/python' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: dmdenv needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	    'name a newer one: make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'error: $(PYTHON) has no venv module (on Debian and Ubuntu: apt install python3-venv)' >&2; exit 1; }
	$(PYTHON) -m venv $*
	@touch $@

$(VENV)/.installed-core: pyproject.toml | $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) --editable '.[test]'
	@touch $(VENV)/.installed-core $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.created
	$(BIN)/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $(VENV)/.installed-core $(VENV)/.installed-test $@

$(INTEROP_VENV)/.installed-interop: pyproject.toml | $(INTEROP_VENV)/.created
	$(INTEROP_VENV)/bin/python $(PIP_INSTALL) --editable '.[interop]'
	@touch $@

$(BENCH_VENV)/.installed-benchmarks: pyproject.toml | $(BENCH_VENV)/.created
	$(BENCH_VENV)/bin/python $(PIP_INSTALL) --editable '.[benchmarks]'
	@touch $@
