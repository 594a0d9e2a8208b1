# Everything runs in .venv, which `setup` makes from constraints.txt; later calls find it ready.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.ready
SITE := docs/_build/html
# Tests start many processes, which would compile all modules where this variable is set.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(if $(STATUS),--status)

.DEFAULT_GOAL := help
.PHONY: help setup study parity test test-all test-trainers test-xla-gpu test-versions evidence lint bench docs algorithm clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## make .venv with the tested versions of everything (minutes, once)

$(STAMP): pyproject.toml constraints.txt
	@echo "Setting up .venv: about a gigabyte of packages, some minutes."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[all]'
	@touch $(STAMP)
	@echo "Ready. Activate it with: . .venv/bin/activate"

study: setup  ## train two networks in both frameworks, draw, and make runs/index.html; goes on where it ended
	$(BIN)/python -m studies all --out runs

parity: setup  ## hold every backend against NumPy, bit by bit (long)
	$(BIN)/python -m parity

test: setup  ## run the quick tests; TESTS=tests/core for a part, STATUS=1 to add a row to docs/status.md
	$(PYTEST) $(TESTS)

test-all: setup  ## run all tests (hours); SHARD=2/6 for the second of six parts
	@echo "All tests, the slow ones too$(if $(SHARD),: part $(SHARD),; SHARD=1/6 to 6/6 run parts)."
	SHARD=$(SHARD) $(PYTEST) -m 'slow or not slow' $(TESTS)

test-trainers:  ## run our classes and sinks in Lightning, Accelerate, transformers and W&B, in .venv-trainers
	test -x .venv-trainers/bin/python || $(PYTHON) -m venv .venv-trainers
	.venv-trainers/bin/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[trainers]'
	.venv-trainers/bin/python -m pytest -m 'slow or not slow' tests/trainers tests/core/test_sinks.py

test-xla-gpu: setup  ## compile the steps of JAX for a GPU, which need not be there, and search their PTX
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target .xla-gpu $$($(BIN)/python -c "import jax; print( \
		*(f'jax-cuda12-{x}=={jax.__version__}' for x in ('plugin', 'pjrt')))")
	PYTHONPATH=.xla-gpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 JAX_ENABLE_COMPILATION_CACHE=false \
		$(PYTEST) -m 'slow or not slow' tests/xla_gpu

VERSIONS ?= oldest newest
TABLE := -m pytest --status tests/test_every_property.py

test-versions: $(VERSIONS:%=versions-%)  ## run the quick table on the oldest and newest torch and JAX; VERSIONS=here, TORCH=2.13.0

versions-here:
	$(PYTHON) $(TABLE)

versions-%:
	test -x .venv-$*/bin/python || $(PYTHON) -m venv .venv-$*
	$(PYTHON) tests/support/versions.py $*$(TORCH:%= %) > .venv-$*/constraints.txt
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--upgrade-strategy eager --constraint .venv-$*/constraints.txt \
		--editable '.[parity,records]' flax pytest
	.venv-$*/bin/python $(TABLE)

evidence: setup  ## try every mutant that the ledger does not know, and print it (hours if empty; SHARD=2/6: less than one)
	PYTHONPATH=tests/support $(BIN)/python -m evidence $(if $(SHARD),--shard $(SHARD))

lint: setup  ## check style, spelling, types and what may import what
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup  ## measure steps beside their peers
	$(BIN)/python -m benchmarks

docs: setup  ## build the site (minutes when nothing was built)
	@echo "Building the site: first a page and a picture of each algorithm, then the pages."
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -b html docs $(SITE)
	@echo "The site is $(SITE)/index.html"

algorithm: setup  ## write what follows from a new file optstudy_core/algorithms/NAME.py
	PYTHONPATH=tests/support $(BIN)/python -m new_algorithm $(NAME)

clean:  ## remove .venv, the site, the runs, and what JAX compiled for tests
	rm -rf .venv .xla-gpu .venv-trainers .venv-oldest .venv-newest docs/_build runs
	rm -rf "$${XDG_CACHE_HOME:-$$HOME/.cache}/optstudy-tests"
