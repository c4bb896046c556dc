# Everything a developer or a new user runs. `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
# A stamp is newer than what it was made from: nothing is installed twice.
INSTALLED := $(VENV)/installed
INSTALLED_DEV := $(VENV)/installed-dev
PINS := pyproject.toml constraints.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check
# The first Python that is new enough; `make PYTHON=/path/to/python3.12 install` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: help install demo test test-slow test-faults test-viewer conformance bench-ingest bench-objects bench-applications check format clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r name text; \
		do printf '  make %-18s %s\n' "$$name" "$$text"; done

install: $(INSTALLED) ## Create .venv with dicom-node in it

demo: $(INSTALLED) ## The whole job on a phantom study; STUDY=<folder> pushes your own DICOM, BUNDLE=<folder> runs your own model
	$(BIN)/dicom-node demo $(if $(STUDY),--study "$(STUDY)") $(if $(BUNDLE),--bundle "$(BUNDLE)")

# Tests of a running node wait more than they compute, so three of them share two cores, with one thread each.
test: $(INSTALLED_DEV) ## Install what the tests need, and run them (under 15 minutes on two cores)
	tests/install-peers.sh
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow and not faults and not viewer" $(PYTEST)

test-slow: $(INSTALLED_DEV) ## The tests that take minutes each
	tests/install-peers.sh
	$(BIN)/python -m pytest -m slow $(PYTEST)

test-faults: $(INSTALLED_DEV) ## Kills, full disks, hostile peers: half an hour; as root, loop devices too
	tests/install-peers.sh
	$(BIN)/python -m pytest -m faults $(PYTEST)

conformance: $(INSTALLED_DEV) ## Every result object of real series before every validator: a table; CASES="GE Canon" for some
	tests/install-peers.sh pixelmed
	$(BIN)/python -m tests.conformance $(CASES)

test-viewer: $(INSTALLED_DEV) ## OHIF in headless Chromium shows the results; screenshots in build/viewer; PYTEST="-k axial" for one case
	tests/install-peers.sh viewer
	tests/viewer/install.sh
	$(BIN)/python -m pytest -m viewer $(PYTEST)

bench-ingest: $(INSTALLED_DEV) ## Receiving beside Orthanc and storescp; BENCH="--cases mr256-x1 --rounds 1 --images 100" for a look
	tests/install-peers.sh
	$(BIN)/python -m benchmarks.ingest $(BENCH)

bench-objects: $(INSTALLED_DEV) ## Making segmentations beside dcmqi, reading series beside pydicom; BENCH="--rounds 1" for a look
	$(BIN)/python -m benchmarks.objects $(BENCH)

bench-applications: $(INSTALLED_DEV) ## What analyses cost, stage by stage; BENCH="--rounds 1" for a look
	$(BIN)/python -m benchmarks.applications $(BENCH)

check: $(INSTALLED_DEV) ## Format, lint, types, import contracts, sizes and words
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --quiet tests/house

format: $(INSTALLED_DEV) ## Format the code, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove .venv and the caches; data and configuration stay
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache build ./*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed. Debian, Ubuntu: apt install python3 python3-venv" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		echo "$(PYTHON) cannot create virtual environments. Debian, Ubuntu: apt install" \
			"python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" >&2; exit 1; fi
	$(PYTHON) -m venv $(VENV)

# torch comes first, alone and pinned: nothing after it can then choose another build or version of it.
$(INSTALLED): $(PINS) | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
