# Everything runs in .venv, which `setup` makes from constraints.txt; later calls find it ready.
# `make test-all TESTS=tests/project/test_docs.py` runs a part.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready

.PHONY: setup study parity test test-all lint bench docs clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[all]'
	touch $(STAMP)

study: setup
	$(BIN)/python -m studies all --out runs --overwrite

parity: setup
	$(BIN)/python -m parity

test: setup
	$(BIN)/python -m pytest --numprocesses 2 $(TESTS)

test-all: setup
	$(BIN)/python -m pytest --numprocesses 2 -m 'slow or not slow' $(TESTS)

lint: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks

docs: setup
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs docs/_build/html

clean:
	rm -rf .venv docs/_build runs
