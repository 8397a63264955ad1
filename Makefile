# Two commands do everything on a fresh machine with Python 3.11 or newer:
#   make speedrun    one timed attempt
#   make test        the tests, in under five minutes
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python

.PHONY: speedrun test lint board clean

speedrun: $(VENV)/installed
	$(RUN) speedrun.py

test: $(VENV)/installed
	$(RUN) -m pytest

lint: $(VENV)/installed
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

board: $(VENV)/installed
	$(RUN) -m bench board

$(VENV)/installed: requirements.txt requirements-test.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

clean:
	rm -rf $(VENV)
