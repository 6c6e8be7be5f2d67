PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test test-all lint audit install clean

quickstart: install  ## make the environment and run the main job: plain TSM, teacher -> student on generated clips
	$(BIN)/w3ray run quickstart --compare

# Two processes, each with a Ray of its own, take a file at a time, in order: most of the time goes into starting
# processes one after the other, and into waits. The long tests kill processes and keep to one.
# The tests start hundreds of processes: each would compile the package again if none may write bytecode.
test: lint  ## make the environment and pass the tests, all but the long ones
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-all: lint  ## every test
	OMP_NUM_THREADS=1 $(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# --strict: a package of which nothing is known is a failure too, and so is a database that cannot be asked.
audit: install  ## known vulnerabilities of the exact versions in constraints.txt; asks pypi.org (AUDIT="-s osv": osv.dev)
	$(BIN)/pip-audit --strict --disable-pip --no-deps --progress-spinner off $(AUDIT) --requirement constraints.txt \
		|| { echo "audit: vulnerable, or not audited at all: read the lines above" >&2; exit 1; }

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "w3ray needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:  ## remove the environment; runs/ stays
	rm -rf $(VENV)
