# Everything here sets up what it needs: Python 3.11 or newer and make are enough.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	2>/dev/null && { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: demo test check bench bench-quick bench-memory bench-rendering bench-rate bench-tuning chaos docs format lock clean

## demo: the main job on this machine, with the sandbox
demo: .venv/run
	@$(BIN)/python -m disparo demo

## test: all four rooms
test: .venv/dev
	@$(BIN)/python -m pytest

## check: formatting, lint, types, import rules, and the wheel in an empty environment
check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python tests/wheel.py

## bench: what the parts can do on this machine
bench: .venv/run
	$(BIN)/python benchmarks/sandbox.py

## chaos: kill everything in turn under a campaign, then count at both ends; CHAOS="--seed 7 --short" and so on
chaos: .venv/dev
	$(BIN)/python -m tests.acceptance.chaos $(CHAOS)

## bench-quick: sending speed against bare loops and naive Celery, three minutes
bench-quick: .venv/run
	$(BIN)/python benchmarks/quick.py

## bench-memory: memory and connections of the workers over a million messages
bench-memory: .venv/run
	$(BIN)/python benchmarks/memory.py

## bench-rendering: what filling a message costs, by kind
bench-rendering: .venv/run
	$(BIN)/python benchmarks/rendering.py

## bench-rate: how exactly a rate is kept, about twelve minutes; RATE="--rates 80 --workers 4 --runs 1" and so on
bench-rate: .venv/run
	$(BIN)/python benchmarks/rate.py $(RATE)

## bench-tuning: how soon self-tuning finds limits that it was not told, four minutes
bench-tuning: .venv/dev
	$(BIN)/python -m benchmarks.tuning

## docs: docs/payloads.md, from the examples of every type
docs: .venv/run
	$(BIN)/python -m disparo.whatsapp.examples > docs/payloads.md

## format: what check would complain of, where it can be mended by itself
format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

## lock: resolve the ranges of pyproject.toml anew (needs uv; versions and hashes only)
lock:
	uv pip compile pyproject.toml --extra embedded --group build --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --quiet --output-file requirements/run.lock
	uv pip compile pyproject.toml --extra embedded --group build --group dev --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --quiet --constraint requirements/run.lock \
		--output-file requirements/dev.lock

clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/run: requirements/run.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Disparo needs Python 3.11 or newer with venv (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "setting up .venv with $(PYTHON): the first time takes a minute or two" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) --require-hashes -r requirements/run.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements/dev.lock .venv/run
	@$(PIP) --require-hashes -r requirements/dev.lock
	@touch $@
