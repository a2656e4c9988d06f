# Two commands do everything on a fresh Debian-like machine with Python 3.11 or newer: `make demo` and `make test`.

PYTHON ?= python3
# Where a virtual environment has its programs: Windows has a name of its own.
PROGRAMS := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN := .venv/$(PROGRAMS)
STAMP := .venv/.installed
# A process per core, each with one thread of its own: two share no core, and a file's tests share their fixtures.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile
# One flavour of ONNX Runtime, cpu, cuda or directml, in an environment of its own: two overwrite each other's files.
FLAVOUR ?= cpu
GPU ?= cuda

.PHONY: demo test test-fast test-proofs test-models test-arm64 test-runtime test-gpu arm-instructions kill-loops fuzz bench-guard docs lint types format clean

demo: $(STAMP)  ## train, export, verify, time and draw
	$(BIN)/edgeae demo

test: lint types  ## everything: lint, types, fast tests, then slow ones
	$(PYTEST) -m "not slow and not proof and not models and not arm64 and not gpu"
	$(PYTEST) -m slow

test-fast: $(STAMP)  ## the tests that take seconds
	$(PYTEST) -m "not slow and not proof and not models and not arm64 and not gpu"

test-proofs: $(STAMP)  ## the runtime's own tests in clean environments, the oldest and the newest; and kills
	$(PYTEST) --dist load -m proof

test-models: $(STAMP)  ## export, int8 and verify: other people's architectures, and a small one per kind of layer
	$(PYTEST) -m models

test-arm64: $(STAMP)  ## bundles on an emulated Raspberry Pi 4 and 5; needs Debian, debootstrap and the network
	PYTHON=$(BIN)/python bash tests/arm64/prepare.sh .arm64
	EDGEAE_ARM64=.arm64 $(BIN)/python -m pytest -m arm64 -rP

test-runtime: .venv-$(FLAVOUR)/.installed  ## the runtime's own tests with numpy and one FLAVOUR of ONNX Runtime alone
	.venv-$(FLAVOUR)/$(PROGRAMS)/python -m pytest tests/runtime

test-gpu: .venv-$(GPU)/.installed  ## bundles on a GPU, GPU=cuda or directml; skipped, with the reason, where there is none
	EDGEAE_GPU=$(GPU) .venv-$(GPU)/$(PROGRAMS)/python -m pytest -m gpu tests/gpu

arm-instructions: $(STAMP)  ## instructions of every form on an emulated Raspberry Pi 4 and 5, counted; builds an emulator first
	bash benchmarks/arm_instructions/prepare.sh .arm64
	PYTHON=$(BIN)/python bash tests/arm64/prepare.sh .arm64
	$(BIN)/python -m benchmarks.arm_instructions .arm64

kill-loops: $(STAMP)  ## train, export, pictures and tune, killed at 200 random moments each
	$(BIN)/python tests/kill_loops.py --moments 200 --seed 0

fuzz: $(STAMP)  ## 30,000 mutated bundles, and as many documents and pictures; no crash, hang, hunger or untyped error
	for seed in 101 202 303; do \
	    $(BIN)/python tests/runtime/fuzz.py --cases 10000 --seed $$seed && \
	    $(BIN)/python tests/runtime/fuzz_documents.py --cases 10000 --seed $$seed && \
	    $(BIN)/python tests/runtime/fuzz_pictures.py --cases 10000 --seed $$seed || exit 1; \
	done

bench-guard: $(STAMP)  ## fails when the graphs' lead over plain ONNX Runtime falls below its floor
	$(BIN)/python -m benchmarks.guard

docs: $(STAMP)  ## docs/ as a site, in site/
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e './runtime[cpu,images]' -e '.[docs]'
	$(BIN)/python docs/generate.py
	$(BIN)/mkdocs build --strict

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

.venv-%/.installed: runtime/pyproject.toml constraints.txt
	test -d .venv-$* || $(PYTHON) -m venv .venv-$*
	.venv-$*/$(PROGRAMS)/python -m pip install --quiet --constraint constraints.txt -e './runtime[$*,images]' pytest
	touch $@

clean:
	rm -rf .venv .venv-cpu .venv-cuda .venv-directml .arm64 site demo runs bundle dist build runtime/dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
