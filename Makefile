# Each verb sets up what it needs: python3 (3.11 or newer) and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

.PHONY: demo test check clean

demo: $(VENV)/experiments  ## Digits in three minutes: Adam, RAdam, Adam with a warmup
	$(BIN)/python -m experiments.cifar10.demo

test: $(VENV)/dev  ## All tests and doctests
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/dev  ## Format (in CI: refuse what is not formatted), lint, check types
	$(BIN)/ruff format $(if $(CI),--check)
	$(BIN)/ruff check
	$(BIN)/mypy

clean:
	rm -rf $(VENV)

$(VENV)/dev: $(VENV)/experiments
	$(PIP) '.[dev]'
	@touch $@

$(VENV)/experiments: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }
	$(PIP) '.[experiments]'
	@touch $@
