# Two commands do everything on a fresh machine: `make demo` and `make test`. `make help` lists all targets.
PYTHON ?= python3
VENV   ?= .venv
# One build of torch, asked for by name, so that no set-up pulls another by accident.
TORCH  ?= torch==2.13.0
# Another release of transformers than that of CONSTRAINTS, if any. The oldest promised versions:
#   make test TORCH='torch==2.11.*' TRANSFORMERS='transformers==5.17.*' CONSTRAINTS= VENV=.venv-oldest
TRANSFORMERS ?=
# The versions of all dependencies; empty: the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
MINUTES ?= 2
SEED   ?= 0
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS))
# Tests start many processes, each of which would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
READY  := $(VENV)/.ready

.PHONY: help demo report long test test-all check fuzz kill parents setup clean
.DEFAULT_GOAL := help

$(READY): pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(PIP) '$(TORCH)'
	$(PIP) --editable ".[dev]" $(patsubst %,'%',$(TRANSFORMERS))
	touch $@

help:                     ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{printf "make %-10s %s\n", $$1, $$2}'

setup: $(READY)           ## make the virtual environment VENV (.venv) with jam in it

demo: $(READY)            ## the whole story on the built-in tiny parents: jam-demo/index.html
	$(BIN)/jam demo

long: $(READY)            ## the same with the longer recipe
	$(BIN)/jam demo --long

report: $(READY)          ## every fusion in one table
	$(BIN)/jam demo --report

test: $(READY)            ## the tests but the slow ones
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow"

test-all: $(READY)        ## all tests
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

clean:                    ## remove what demos, tests and checks leave
	rm -rf jam-demo jam-demo-long jam-report fuzz-failures .pytest_cache .ruff_cache .mypy_cache
