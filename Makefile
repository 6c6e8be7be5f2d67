PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: quickstart test about-test test-all test-without-decord test-lowest lint docs dist constraints audit install clean

quickstart: install  ## make the environment and run the main job: plain TSM, teacher -> student on generated clips
	$(BIN)/w3ray run quickstart --compare

# Two processes, each with a Ray of its own, take a file at a time, in order: most of the time goes into starting
# processes one after the other, and into waits. The long tests kill processes and keep to one.
# The tests start hundreds of processes: each would compile the package again if none may write bytecode.
test: about-test lint docs  ## make the environment and pass the tests, all but the long ones
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

about-test:
	@echo "make test: 1. the environment in $(VENV), if it is not there (minutes)  2. style, types, imports (a minute)"
	@echo "           3. the site in build/docs (a minute)  4. all tests but the long ones, in two processes"
	@echo "           (ten minutes on two idle cores). It ends with pytest's line: ... passed"

test-all: lint docs  ## every test, also the long ones: faults, clusters, tutorials
	OMP_NUM_THREADS=1 $(BIN)/pytest

# As on ARM and Apple silicon, for which decord has no package.
test-without-decord: install  ## all tests but the long ones, in an environment without decord
	$(BIN)/python tests/environment_without.py build/without-decord decord
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 build/without-decord/bin/python -m pytest -m "not slow" \
		-n 2 --dist loadfile --no-loadscope-reorder

# Left out: what tests this repository and not the package (docs, files for clusters, wheels), and faults.
test-lowest: install  ## the core of the tests, and a small run, with the lowest versions that pyproject.toml allows
	$(BIN)/python tests/environment_lowest.py build/lowest
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 build/lowest/bin/python -m pytest -m "not slow" \
		-n 2 --dist loadfile --no-loadscope-reorder tests/attention tests/cli tests/data tests/evaluation \
		tests/explaining tests/lint tests/models tests/pipeline tests/runtime tests/scoring tests/serving tests/sweep \
		tests/test_export.py tests/test_ray_internals.py tests/test_recipe.py tests/test_storage.py \
		tests/test_trained.py tests/tracking tests/training
	rm -rf build/lowest-runs
	build/lowest/bin/w3ray run quickstart --set storage=build/lowest-runs --set train.epochs=2 \
		--set data.synthetic.test_clips=40

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini benchmarks
	$(BIN)/lint-imports --no-logo

docs: install  ## the site in build/docs; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -q -b html -d build/doctrees docs build/docs
	@echo "the site: build/docs/index.html"

dist: install  ## wheel and sdist in dist/
	rm -rf dist build/lib
	$(BIN)/python -m build --no-isolation --outdir dist .

# pip's newest versions that fit pyproject.toml, from a new environment, for this Python and system.
constraints: clean  ## make constraints.txt again; then run the tests before it is committed
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	(head -n 1 constraints.txt; $(BIN)/pip freeze --all --exclude-editable --exclude w3ray --exclude pip | LC_ALL=C sort -f) > constraints.new
	mv constraints.new constraints.txt
	touch $(INSTALLED)

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
