# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
# One build of torch, asked for by name, so that no set-up pulls another by accident.
TORCH  ?= torch==2.13.0
MINUTES ?= 2
SEED   ?= 0
BIN    := $(VENV)/bin
# Tests start many processes, each of which would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
READY  := $(VENV)/.ready

.PHONY: demo report long test test-all check fuzz kill parents setup clean

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

setup: $(READY)

demo: $(READY)            ## the whole story on the built-in tiny parents
	$(BIN)/jam demo

long: $(READY)            ## the same with the longer recipe
	$(BIN)/jam demo --long

report: $(READY)          ## every fusion in one table
	$(BIN)/jam demo --report

test: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: $(READY)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --dist worksteal

kill: $(READY)            ## kill every command that writes at random moments, and compare what it makes at last
	$(BIN)/python tests/kills.py --kills 100 --seed 0

check: $(READY)           ## format, lint, types, import rule
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/repo/test_imports.py

fuzz: $(READY)            ## damaged files and wrong calls for some minutes: make fuzz MINUTES=10 SEED=1
	PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(MINUTES) --seed $(SEED)

parents: $(READY)         ## train the built-in tiny parents again; finished stages in runs/parents are kept
	$(BIN)/python -m jam.demo.parents --out runs/parents
	rm -rf src/jam/tutorials/parents
	mv runs/parents src/jam/tutorials/parents

clean:
	rm -rf jam-demo jam-demo-long jam-report fuzz-failures .pytest_cache .ruff_cache .mypy_cache
