# make demo: install and rank example images. make lint, make test: what CI runs. PYTHON picks the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# the tests of a file stay together: they share what takes long to make
WORKERS := --numprocesses auto --dist loadfile
.DEFAULT_GOAL := help

.PHONY: help demo lint format test test-slow docs docs-examples bench clean

help:
	@grep -E '^# ' Makefile; echo "targets: demo lint format test test-slow docs docs-examples bench clean"

# Remade whenever pyproject.toml changes. torch and torchvision come from PyPI through pip.
$(VENV)/.run: pyproject.toml
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -q && \
		apt-get install -qy python3-venv && $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[annotate]"
	touch $@

$(VENV)/.dev: $(VENV)/.run pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

$(VENV)/.docs: $(VENV)/.run pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[annotate,docs]"
	touch $@

demo: $(VENV)/.run
	$(BIN)/humanpref demo

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: $(VENV)/.dev
	$(BIN)/python -m pytest $(WORKERS)

test-slow: $(VENV)/.dev
	$(BIN)/python -m pytest $(WORKERS) -m slow

# The documentation site, in site/: warnings are errors, and every internal link must lead somewhere.
docs: $(VENV)/.docs
	rm -rf site
	$(BIN)/python -m typer humanpref.cli utils docs --name humanpref --output docs/commands.md
	$(BIN)/zensical build --clean --strict
	$(BIN)/python docs/tools/links.py site

# Run what the how-to pages show and put the output in.
docs-examples: $(VENV)/.dev
	$(BIN)/python docs/tools/examples.py

bench: $(VENV)/.dev
	@echo "Each script under benchmarks/ begins with the command to run."

clean:
	rm -rf $(VENV) site docs/commands.md humanpref-demo build dist .pytest_cache .mypy_cache .ruff_cache
