# Everything sets itself up: a virtual environment in .venv, with the pinned torch and triton of constraints.txt.
# CONTRIBUTING.md says how to have another beside it.
PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=

.PHONY: demo test bench aot lint clean help

help:  ## what one can make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.demo  ## train a plain network and a spatial transformer on distorted digits, and draw what it sees
	@# Threads that wait without spinning: on a busy machine spinning ones take each other's time.
	OMP_WAIT_POLICY=passive $(BIN)/python -m tstn.demo $(DEMO_ARGS)

# One thread per process: torch's thread pools get in each other's way. Who has no tests left takes some of the others'.
test: $(VENV)/.dev  ## the tests, on plain PyTorch and on the kernels, on the CPU in checked mode
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -p no:benchmark -q $(TEST_ARGS)

bench: $(VENV)/.dev  ## time the kernels against PyTorch's own path, on a GPU or else on the CPU
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		set -x; $(BIN)/python -m pytest bench -o python_files='bench_*.py' --benchmark-only -q \
			--benchmark-group-by=group --benchmark-columns=min,median,iqr,rounds $(BENCH_ARGS); \
	else \
		set -x; $(BIN)/python -m bench.cpu $(BENCH_ARGS); \
	fi

aot: $(VENV)/.dev  ## compile every kernel variant for four GPUs, without one, and compare with the table
	$(BIN)/python -m bench.aot --check

lint: $(VENV)/.dev  ## ruff and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

clean:  ## remove what was set up and written
	rm -rf $(VENV) out .pytest_cache .ruff_cache .hypothesis .benchmarks

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("tstn needs Python 3.10 or newer; got " + sys.version.split()[0] + ". Set PYTHON=") if sys.version_info < (3, 10) else None'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	@echo "Installing torch, triton and the demo's libraries into $(VENV) (once) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml $(CONSTRAINTS)
	@echo "Installing torch, triton and the development tools into $(VENV) (once) ..."
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@ $(VENV)/.demo
