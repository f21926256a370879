# Everything a fresh machine needs, given Python 3.11 or later with pip. Each target sets up its own environment.
PYTHON ?= python3
BIN := .venv/bin
SEED ?= 7
# A process a core, each test on one thread; a file's tests stay together, for they share runs.
PARALLEL := --numprocesses auto --dist loadfile

.PHONY: env demo test test-all lint docs audit bench fuzz kills clean

env: .venv/.ready

# uv installs in seconds what takes pip minutes; it comes from the same package index.
.venv/.ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	VIRTUAL_ENV=$(CURDIR)/.venv $(BIN)/uv pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: env
	$(BIN)/segshift demo --out runs/demo

test: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: env
	$(BIN)/python -m pytest --hypothesis-profile=explore $(PARALLEL)

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The documentation as a site, with the API reference, in site/; a warning is an error. The tests build it too.
docs: env
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Campaigns of docs/trust.md: minutes each, with figures to print.
fuzz: env
	OMP_NUM_THREADS=1 SEGSHIFT_FUZZ=70 $(BIN)/python -m pytest --hypothesis-profile=explore tests/faults/test_fuzz*.py

kills: env
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.killing --kills 150 --seed $(SEED)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.damaging

# Known vulnerabilities in the pinned versions; needs the index's own service, which a mirror may not offer.
audit: env
	$(BIN)/python tools/audit.py

# The short form of each benchmark; fails where a ratio has lost more than a quarter of what was saved.
bench: env
	$(BIN)/python benchmarks/guard.py

clean:
	rm -rf .venv runs
