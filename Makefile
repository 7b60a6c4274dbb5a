# `make run` and `make test` need only Python and set up everything else themselves, in .venv.
PYTHON ?= python3
ARGS ?=

VENV := .venv
VENV_PYTHON := $(VENV)/bin/python
# The stamp names this checkout: an environment that was copied from another one is installed again.
STAMP := $(VENV)/.installed-$(shell printf '%s' '$(CURDIR)' | cksum | cut -d ' ' -f 1)

.PHONY: help run test test-all lint docs benchmarks clean
help:
	@echo "make run        find the best configuration for this machine (suites/appo_throughput.yaml, about 8 minutes);"
	@echo "                make run ARGS='--minutes 2' passes options on"
	@echo "make test       the tests; make test-all adds those that take minutes"
	@echo "make lint       ruff, mypy, the layers of imports, and the documentation's links"
	@echo "make docs       the pages of docs/reference/ from the code, and the documentation as a site, docs/_build/index.html"
	@echo "make benchmarks the micro-benchmarks, through asv"
	@echo "make clean      remove .venv and caches; results stay"

run: $(STAMP)
	$(VENV_PYTHON) -m harness run suites/appo_throughput.yaml $(ARGS)

# The files are shared out over three processes: tests wait for processes that they start as often as they compute.
# They begin in the order of tests/conftest.py, which has the long ones first.
test: $(STAMP)
	$(VENV_PYTHON) -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

test-all: $(STAMP)
	$(VENV_PYTHON) -m pytest -m '' --timeout 1800 $(ARGS)

lint: $(STAMP) docs
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy
	$(VENV)/bin/lint-imports

docs: $(STAMP)
	$(VENV_PYTHON) docs/reference.py
	$(VENV_PYTHON) -m sphinx --fresh-env --quiet --fail-on-warning --keep-going docs docs/_build

benchmarks: $(STAMP)
	$(VENV_PYTHON) -m asv machine --yes
	$(VENV_PYTHON) -m asv run --python=same --quick --show-stderr $(ARGS)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "$(PYTHON) is `$(PYTHON) --version 2>&1`, needed is 3.11, 3.12 or 3.13: make run PYTHON=/path/to/python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV_PYTHON) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@

clean:
	rm -rf $(VENV) docs/_build .asv .mypy_cache .ruff_cache .grimp_cache .pytest_cache .hypothesis build *.egg-info
