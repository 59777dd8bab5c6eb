# make demo | test | coverage | thorough | check | wheels | format | clean. Each sets up .venv by itself when it is missing or stale.

VENV ?= .venv
JOBS ?= 2
APP ?= medseg
SUITABLE = import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(firstword $(foreach p,python3.12 python3.11 python3,$(shell $(p) -c '$(SUITABLE)' 2>/dev/null && echo $(p))))

BIN := $(VENV)/bin
SETTINGS := constraints.txt pyproject.toml $(wildcard shared/pyproject.toml packages/*/pyproject.toml apps/*/pyproject.toml)

.PHONY: demo test coverage thorough check wheels format clean

demo: $(VENV)/.$(APP)
	@$(BIN)/python tools/environment.py run $(VENV) $(APP) demo $(ARGS)

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(MEASURE) $(ARGS)

# apart from `test`, since tracing every line slows Python code down by half
coverage: $(VENV)/.dev
	@$(MAKE) --no-print-directory test MEASURE='--cov --cov-report term'

# every mutant, and 100 generated cases of each method and layer kind: about an hour on 2 cores
thorough: $(VENV)/.dev
	@GRAFTWORK_THOROUGH=1 $(MAKE) --no-print-directory test

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(MAKE) --no-print-directory test

wheels: $(VENV)/.dev
	@$(BIN)/python -m tools.wheels $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.$(APP) $(VENV)/.dev: $(VENV)/.%: $(SETTINGS)
	@$(if $(PYTHON),,$(error Python 3.11 or 3.12 with its venv module was not found: make PYTHON=/path/to/python3.12))
	@$(PYTHON) tools/environment.py install $(VENV) $*
