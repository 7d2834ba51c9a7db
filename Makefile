# Each verb sets up what it needs: python3 (3.11 or newer) and make are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

# An environment with compilers for TPUs and GPUs, 2 GB, beside the versions of `.venv`.
ACCELERATORS := .venv-accelerators
COMPILE := $(ACCELERATORS)/bin/python -m pytest --confcutdir tests/accelerators \
  tests/accelerators -n 2 --dist worksteal
INSTALL_COMPILERS := $(ACCELERATORS)/bin/python -m pip install --quiet \
  --disable-pip-version-check --constraint $(ACCELERATORS)/constraints.txt

# An environment with the oldest jax and optax that pyproject.toml admits.
OLDEST := .venv-oldest
OLDEST_PINS = $$($(BIN)/python -c "import tomllib; \
  project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
  print(*(need.replace('>=', '==') for need in project['dependencies']))")
# Those of the package, which need nothing of the experiments'.
CORE_TESTS := $(addprefix tests/test_,$(addsuffix .py, \
  sma moments rectify schedules radam contract peers gradients composition \
  state_conversion decay_schedules decay_states properties describe schedule_free rectified_variance skipped_steps))
SMOKE := import jax, optax, optax_radam as o; t = o.radam(0.1); p = jax.numpy.ones(2); \
  t.update(p, t.init(p)); print("wheel works, jax", jax.__version__, "optax", optax.__version__)

.PHONY: demo bench test docs accelerators soak test-oldest check clean

demo: $(VENV)/experiments  ## Digits in three minutes: Adam, RAdam, Adam with a warmup
	$(BIN)/python -m experiments.cifar10.demo

bench: $(VENV)/experiments  ## Under ten minutes: tables and figures into runs/bench
	$(BIN)/python -m benchmarks

test: $(VENV)/dev  ## All tests and doctests
	$(BIN)/python -m pytest -n 2 --dist worksteal

docs: $(VENV)/docs  ## The site, into docs/_build/html; runs all its pages
	rm -rf docs/_build
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --jobs 2 \
	  --conf-dir docs --doctree-dir docs/_build/doctrees . docs/_build/html
	$(BIN)/python docs/check.py docs/_build/html

accelerators: $(ACCELERATORS)/ready  ## What compilers for TPUs and GPUs make of an update
	$(COMPILE)

soak: $(VENV)/dev $(ACCELERATORS)/ready  ## The long tests
	$(BIN)/python -m pytest -m soak -n 2
	$(COMPILE) -m soak

test-oldest: $(VENV)/dev  ## The wheel alone, newest and oldest; core tests on oldest
	rm -rf dist && $(BIN)/python -m build
	for pins in "" "$(OLDEST_PINS)"; do \
	  $(PYTHON) -m venv --clear $(OLDEST) && \
	  $(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl $$pins && \
	  $(OLDEST)/bin/python -I -W error -c '$(SMOKE)' || exit 1; \
	done
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check \
	  $(OLDEST_PINS) chex hypothesis pytest pytest-xdist
	$(OLDEST)/bin/pytest -o pythonpath= -n 2 --dist worksteal $(CORE_TESTS)
	$(OLDEST)/bin/pytest -o pythonpath= --rootdir tests --pyargs optax_radam

check: $(VENV)/dev  ## Format (in CI: refuse what is not formatted), lint, check types, workflows
	$(BIN)/ruff format $(if $(CI),--check)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

clean:
	rm -rf $(VENV) $(ACCELERATORS) $(OLDEST) dist

$(VENV)/dev: $(VENV)/experiments
	$(PIP) '.[dev]'
	@touch $@

$(VENV)/docs: $(VENV)/dev
	$(PIP) '.[docs]'
	@touch $@

# A compiler that cannot be installed is left out: tests skip it, or fail where CI is set.
$(ACCELERATORS)/ready: $(VENV)/dev
	$(PYTHON) -m venv --clear $(ACCELERATORS)
	$(BIN)/python -m pip freeze --exclude-editable > $(ACCELERATORS)/constraints.txt
	$(INSTALL_COMPILERS) jax optax flax pytest pytest-xdist
	-$(INSTALL_COMPILERS) 'jax[tpu]'
	-$(INSTALL_COMPILERS) 'jax[cuda12-local]' nvidia-cuda-nvcc-cu12
	@touch $@

$(VENV)/experiments: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV) || \
	  { echo "$(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv"; exit 1; }
	$(PIP) '.[experiments]'
	@touch $@
