# make speedrun    one timed attempt
# make test        the tests; four to seven minutes of processor time
# make lint        ruff and mypy
# make test-all    also the slow tests (audits of real cheats, exhaustive decoding, interrupted commands) and
#                  those of the extras (Optuna, Ray), which it installs
# Each target creates the virtual environment first. Python 3.11 or newer is required.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: speedrun test test-slow test-extras test-all lint board clean

speedrun: $(VENV)/installed
	$(RUN) speedrun.py

test: $(VENV)/installed
	$(RUN) -m pytest

test-slow: $(VENV)/installed
	$(RUN) -m pytest -m slow
	$(RUN) -m pytest -m timing -n 0 tests/test_speedrun.py

test-extras: $(VENV)/extras
	$(RUN) -m pytest -m extra

test-all: test test-slow test-extras

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

board: $(VENV)/installed
	$(RUN) -m bench board

$(VENV)/installed: requirements.txt requirements-test.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

$(VENV)/extras: $(VENV)/installed requirements-extras.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-extras.txt
	touch $@

clean:
	rm -rf $(VENV)
