# `make serve` and `make test` are all a newcomer needs; each builds .venv first (minutes once, seconds after).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: serve test fuzz test-promtool lint types check clean help

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
		|| { echo "Python 3.11, 3.12 or 3.13 is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "==> building $(VENV) (torch and transformers are large: a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[local,dev]'
	@touch $@

serve: $(READY)  ## serve the bundled demo model on http://127.0.0.1:8000
	@$(BIN)/dedup serve

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest

fuzz: $(READY)  ## the filter's promises, for ten minutes and more
	FUZZ_EXAMPLES=12000 $(BIN)/python -m pytest tests/test_promises.py

test-promtool: $(READY)  ## check /metrics with Prometheus' own tool
	@command -v promtool >/dev/null || { echo "promtool is needed: apt-get install prometheus"; exit 1; }
	$(BIN)/python -m pytest tests/external/test_promtool.py

lint: $(READY)  ## ruff and the import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(READY)  ## mypy, strict
	$(BIN)/mypy

check: lint types test  ## all of it, as CI does

clean:  ## remove .venv and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build *.egg-info
