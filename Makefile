# Two commands do everything on a fresh Debian-like machine with Python 3.11 or newer: `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test test-fast test-slow lint types format clean

demo: $(STAMP)  ## train, export, verify, time and draw
	$(BIN)/edgeae demo

test: lint types  ## everything: lint, types, fast tests, then slow ones
	$(BIN)/python -m pytest -m "not slow"
	$(BIN)/python -m pytest -m slow

test-fast: $(STAMP)  ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The versions are pinned, so that every machine tests the same ones; the packages' own ranges are looser.
$(STAMP): pyproject.toml runtime/pyproject.toml constraints.txt
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e './runtime[cpu,images]' -e '.[dev]'
	touch $@

clean:
	rm -rf .venv demo runs bundle dist build runtime/dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
