# `make audit` and `make test` are all a newcomer types; every target sets up what it needs in .venv first.
# A target can be given more: make audit BACKBONE=qwen2.5-coder-0.5b-instruct, make test ARGS="-k index".

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two targets at once would install into one environment
.PHONY: help audit test check fix bench docs

PYTHON ?= python3
BACKBONE ?= qwen2.5-coder-1.5b-instruct
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

help:
	@echo "make audit   how often each retriever hands over harmful passages, on the built-in probes (BACKBONE=, ARGS=)"
	@echo "make test    all tests, those on real downloaded models included (ARGS=)"
	@echo "make check   lint, formatting and strict types; changes nothing"
	@echo "make fix     mend what lint and formatting can mend"
	@echo "make bench   training throughput, as a JSON file in benchmarks/results"
	@echo "make docs    write the documents' tables from benchmarks/results, then check links and examples"

audit: $(VENV)/.core
	@$(BIN)/safe-retrieval audit --backbone "$(BACKBONE)" $(ARGS)

# Most tests share the cores, one process and one thread each. Those on real models come after, since each of them takes
# all cores and gigabytes of memory (in two processes they took 24 GB, and hardly less time). Both parts run whatever
# becomes of the first. A choice in ARGS may leave nothing to one of them (exit status 5), but not to both.
test: $(VENV)/.dev
	@rest=0; real=0; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --part rest --numprocesses logical --maxprocesses 4 --dist worksteal $(ARGS) || rest=$$?; \
	$(BIN)/python -m pytest --part real --durations 12 $(ARGS) || real=$$?; \
	[[ "$$rest $$real" =~ ^(0 0|0 5|5 0)$$ ]]

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.core
	$(BIN)/python benchmarks/training_throughput.py $(ARGS)

docs: $(VENV)/.dev
	$(BIN)/python benchmarks/readme_table.py
	$(BIN)/python benchmarks/tables.py
	$(BIN)/python -m pytest tests/test_docs.py tests/real/test_docs_real.py

# Stamps: an environment is set up once, and again where the dependencies have changed.

$(VENV)/.core: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.python pyproject.toml constraints.txt
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.core $@

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or newer, got " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	@touch $@
