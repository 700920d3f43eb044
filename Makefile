# `make demo` and `make test` do all their own set-up: Python 3.11 or newer, git and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint types imports check bench bitcoind clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("rrnode needs Python 3.11 or newer; this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing rrnode and its dependencies into $(VENV) (about a minute, once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(STAMP)

demo: setup
	@$(BIN)/rrnode demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

imports: setup
	@$(BIN)/lint-imports

check: lint types imports test

bench: setup
	@$(BIN)/python -m tools.bench $(ARGS)

bitcoind: setup
	@$(BIN)/python -m tools.build_bitcoind $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info
