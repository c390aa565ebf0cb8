# Everything sets itself up: a machine needs Python 3.11 or newer, make and a C compiler.
.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Workers that tests are spread over. Each one that asks for PostgreSQL starts its own.
JOBS ?= 2
ONLY ?=

PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# A lock names every package, so nothing is left to resolve; byte code is made on first import, and only of what is imported.
INSTALL := $(PIP) install -qq --no-deps --no-compile --prefer-binary
PYTEST := $(BIN)/python -m pytest

export PYTHONUNBUFFERED := 1
# Dagster's, off: running a demo or a test tells nobody.
export DAGSTER_DISABLE_TELEMETRY := 1

.PHONY: help demo ui test test-full test-slow bench check format lock clean
.NOTPARALLEL:
.DELETE_ON_ERROR:
.SECONDARY:

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | expand -t 12

demo: $(VENV)/demo ## attack a guarded pipeline on real flights data, and see each attack caught
	@$(BIN)/mlsec demo

ui: $(VENV)/demo ## open Dagster on the history that the demo left
	@$(BIN)/mlsec demo --ui

test: $(VENV)/dev ## all tests but the slow ones
	@$(PYTEST) -m "not slow" -n $(JOBS) --dist loadfile

test-slow: $(VENV)/full ## the slow tests only: Spark, a browser, large data
	@$(PYTEST) -m slow -n $(JOBS) --dist loadfile

test-full: test test-slow ## all tests

bench: $(VENV)/dev ## benchmarks beside their peers; ONLY=name runs one
	@$(BIN)/python -m benchmarks $(ONLY)

check: $(VENV)/check ## formatting, lint, types and architecture
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright
	$(BIN)/lint-imports

format: $(VENV)/check ## format, and mend what lint can mend
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## remove the environments and what the demo and the tools left
	rm -rf .venv .venv-* .demo .pytest_cache .ruff_cache .import_linter_cache .hypothesis

# --- set-up: each file below $(VENV) says that what it is made from is installed -------------------------------------

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: Python 3.11 or newer is needed, and none was found; name one with PYTHON=…" >&2; exit 1; }
	@echo "Setting up $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/%-packages: requirements/%.lock | $(BIN)/python
	@echo "Installing $<"
	@$(INSTALL) -r $<
	@touch $@

# The package itself, in place, built by what the lock brought.
PROJECT = $(INSTALL) --no-build-isolation --editable . && touch $@

$(VENV)/demo $(VENV)/dev: $(VENV)/%: $(VENV)/%-packages pyproject.toml
	@$(PROJECT)

$(VENV)/check $(VENV)/full: $(VENV)/%: $(VENV)/%-packages $(VENV)/dev
	@touch $@

# --- locks: newest versions that fit together, for every platform, with hashes and without any index address ---------

LOCK = $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: | $(VENV)-lock/bin/uv ## write requirements/*.lock anew; UPGRADE=1 also moves versions
	$(LOCK) pyproject.toml --extra aws --extra demo --extra duckdb --extra gx --extra mlflow --extra polars --extra postgres \
		requirements/build.in requirements/dev.in -o requirements/dev.lock
	$(LOCK) pyproject.toml --extra demo requirements/build.in -c requirements/dev.lock -o requirements/demo.lock
	$(LOCK) requirements/check.in -c requirements/dev.lock -o requirements/check.lock
	$(LOCK) requirements/full.in -c requirements/dev.lock -o requirements/full.lock
	$(LOCK) requirements/peers.in -o requirements/peers.lock
	$(LOCK) requirements/peers-stability.in --no-emit-package nvidia-nccl-cu12 -o requirements/peers-stability.lock

$(VENV)-lock/bin/uv:
	@$(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip install --quiet uv
