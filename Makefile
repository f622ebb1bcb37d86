# make demo: the whole way on synthetic people. make test: everything, in a fresh .venv. Nothing but Python 3.11+, git and make is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One stamp an extra: a change in what is installed installs again.
INSTALLED := pyproject.toml setup.py constraints.txt kpdata/converters/_scan.c kpdata/eval/_kernels.c
CORE := $(VENV)/.core
DEV := $(VENV)/.dev

.PHONY: demo test fmt lint types bench docs clean

demo: $(CORE)
	$(BIN)/kpdata demo demo --force

test: $(DEV)
	$(BIN)/python -m pytest -n auto -q $(PYTEST)

fmt: $(DEV)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEV)
	$(BIN)/mypy

bench: $(DEV)
	$(BIN)/python -m benchmarks.run $(BENCH)

docs: $(DEV)
	$(BIN)/python -m pytest -q tests/test_docs.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(CORE): $(INSTALLED) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(BIN)/python -m compileall -q kpdata
	touch $@

$(DEV): $(INSTALLED) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	$(BIN)/python -m compileall -q kpdata
	touch $@ $(CORE)

clean:
	rm -rf $(VENV) demo build dist *.egg-info kpdata/*/*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
