# make demo: one run's life on this machine.   make test: everything CI runs.
# Both set up .venv first; constraints.txt pins torch to the version they were measured with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a folder of its own for each demo: runs/demo, runs/demo-2, …
DEMO_OUT ?= $(shell d=runs/demo; n=2; while [ -e $$d ]; do d=runs/demo-$$n; n=$$((n + 1)); done; echo $$d)

.PHONY: demo test setup setup-dev lint types imports unit wheel clean

$(VENV)/pip.stamp: constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "Thalweg needs Python 3.11 or newer, this is " + sys.version'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	touch $@

$(VENV)/run.stamp: $(VENV)/pip.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/dev.stamp: $(VENV)/pip.stamp pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@ $(VENV)/run.stamp

setup: $(VENV)/run.stamp
setup-dev: $(VENV)/dev.stamp

demo: setup
	$(BIN)/thalweg demo --out $(DEMO_OUT)

test: lint types imports unit wheel

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup-dev
	$(BIN)/mypy

imports: setup-dev
	$(BIN)/lint-imports

unit: setup-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile

wheel: setup-dev
	bash tests/smoke_wheel.sh $(BIN)/python

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
