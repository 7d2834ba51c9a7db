# Each verb sets up what it needs: python3 (3.11 or newer) and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
# Compiled programs are kept, so that a second run need not compile them again.
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/$(VENV)/jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0.2

.PHONY: demo test check clean

demo: $(READY)  ## Digits in three minutes: Adam, RAdam and Adam with a warmup
	$(BIN)/python -m experiments.cifar10.demo

test: $(READY)  ## All tests and doctests
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(READY)  ## Format (in CI: refuse what is not formatted), lint, check types
	$(BIN)/ruff format $(if $(CI),--check)
	$(BIN)/ruff check
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[experiments,dev]'
	@touch $@
