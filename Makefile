# What a newcomer types. `make help` lists it.
PYTHON ?= python3
BIN := .venv/bin
# Tests run in two processes; more threads in each would only fight over the cores. Without bytecode, pytest would
# rewrite every test module in every run and process.
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=

.DEFAULT_GOAL := help
.PHONY: help install demo docs native test test-slow lint types layers format bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# pip compiles modules one after another, compileall in as many processes as there are cores. A third of the source is
# tests of the packages and networks of transformers, of which few are imported; those are compiled then. Some packages
# hold templates, which do not compile.
.venv/installed: pyproject.toml models/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]' -e ./models
	$(BIN)/python -m compileall -qq -j 0 -x '/(tests?|testing|_testing)/|/transformers/models/' .venv/lib || true
	touch $@

install: .venv/installed ## make .venv with everything in it

demo: install ## export, generate, verify and measure the embedded model; leaves demo/report.html
	rm -rf demo && mkdir demo
	$(BIN)/diffoundry export --model emoji --target onnxruntime -o demo/emoji.bundle
	$(BIN)/python docs/examples/generate_grid.py demo/emoji.bundle demo
	$(BIN)/python docs/examples/demo_report.py demo/emoji.bundle demo

docs: install ## build the documentation, offline; open build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

native: install .typing/diffoundry ## build the native kernels beside the Python files that use them
	cmake -S . -B build/native -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	cmake --build build/native --parallel
	cmake --install build/native --prefix .typing

test: install ## the tests without those marked slow, and the ten slowest of them
	$(TEST_ENV) $(BIN)/pytest -n 2 --dist worksteal --durations=10 -m "not slow"

test-slow: install ## full-size models and long sweeps
	$(BIN)/pytest -m slow

lint: install ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install .typing/diffoundry ## mypy, strict
	$(BIN)/mypy

.typing/diffoundry:
	mkdir -p $@
	for folder in exporter runtime targets calibration serving; do ln -sfn ../../$$folder $@/$$folder; done
	ln -sfn ../models .typing/diffoundry_models

layers: install ## who may import whom
	$(BIN)/lint-imports

format: install ## ruff, writing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what the targets above made
	rm -rf .venv .typing demo build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
