# Everything runs in the virtual environment $(VENV), made on first use and remade when the pins change.
# Variables: PYTHON (3.11 or newer), VENV, OUT (folder of the demo run), ARGS (more arguments for pytest).
PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/demo
ARGS ?=
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
# The models of the demo and the tests are tiny: a second thread gains little alone and loses much on a busy machine.
OMP_NUM_THREADS ?= 1
export OMP_NUM_THREADS
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast lint types bench clean

help: ## Show this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Make the virtual environment with the command fedpdpo

demo: $(VENV)/.installed ## Train the built-in federation (no download but packages) and show where the results are
	if test -f $(OUT)/config.yaml; then rm -rf $(OUT); fi
	if test -f $(OUT)-plural/config.yaml; then rm -rf $(OUT)-plural; fi
	$(VENV)/bin/fedpdpo train experiments/configs/quickstart.yaml --output_dir $(OUT)
	@echo
	$(VENV)/bin/fedpdpo train experiments/configs/pluralllm_quickstart.yaml --output_dir $(OUT)-plural --quiet
	@$(VENV)/bin/python -m experiments.demo_line $(OUT)-plural
	@echo
	@echo "Results are in $(OUT): rounds.csv (privacy per round), shared_adapter (loads with PEFT), ledger."
	@echo "Check the ledger with: $(VENV)/bin/fedpdpo ledger verify $(OUT)"

test: lint types ## Lint, types, fast tests, then the slow statistical and end-to-end ones
	$(VENV)/bin/python -m pytest -m "not slow" --benchmark-disable $(ARGS)
	$(VENV)/bin/python -m pytest -m slow --benchmark-disable $(ARGS)

test-fast: $(VENV)/.installed-dev ## The fast tests alone
	$(VENV)/bin/python -m pytest -m "not slow" --benchmark-disable $(ARGS)

lint: $(VENV)/.installed-dev ## ruff
	$(VENV)/bin/ruff check .

types: $(VENV)/.installed-dev ## mypy, strict on secagg and privacy
	$(VENV)/bin/mypy

bench: $(VENV)/.installed-dev ## pytest-benchmark under tests/bench
	$(VENV)/bin/python -m pytest tests/bench --benchmark-only $(ARGS)

clean: ## Remove the virtual environment and caches; runs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first, so that an index of its own (a processor-only build, say) can be given once through pip's settings.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..."; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch==2.13.0
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
