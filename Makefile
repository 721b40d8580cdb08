# Everything a newcomer needs is `make run`; everything a change needs is `make check test`.
# Works with GNU make >= 3.81 and any POSIX shell. Each target shows the plain command it runs.

SHELL = /bin/sh
PYTHON_DIR = .venv/bin
# ARGS go to the command of the target: make run ARGS='--play-port 7500', make test ARGS='-k resume -x'
ARGS =
# Another interpreter: make setup PYTHON=/path/to/python3
export PYTHON
# Tests run in so many processes, each with servers of its own; 0 for one that a debugger can look into.
TESTS_AT_ONCE = 2
PYTEST = $(PYTHON_DIR)/python -m pytest -n $(TESTS_AT_ONCE) --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup setup-run setup-dev run test test-fast test-clients check fix faults planted-bugs fuzz bench bench-data-model demo clean \
        reset-data

# $(call timed,how long it takes,command): says what it runs and for how long, and at the end how long it took.
# (`info` instead of an echo: the command may hold quotes.)
define timed
$(info $(2))
@echo '$@: takes about $(1) on 2 cores'; started=$$(date +%s); code=0; $(2) || code=$$?; \
echo "$@: took $$(($$(date +%s) - started)) s"; exit $$code
endef

help: ## list the targets
	@echo 'Usage: make TARGET'; echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' Makefile

setup: ## make the virtual environment (.venv) with everything that running and testing need
	@tools/make_venv.sh run test

setup-run:
	@tools/make_venv.sh run

setup-dev:
	@tools/make_venv.sh run test dev

run: setup-run ## start Wayhold with its own Valkey and Postgres in .data; Ctrl-C ends it (ARGS='--help' for more)
	$(info $(PYTHON_DIR)/wayhold dev $(ARGS))
	@$(PYTHON_DIR)/python tools/run_in_foreground.py $(PYTHON_DIR)/wayhold dev $(ARGS)

demo: setup-run ## the same with fifty walking players, so that the console has something to show
	$(info $(PYTHON_DIR)/python tools/demo.py $(PYTHON_DIR)/wayhold $(ARGS))
	@$(PYTHON_DIR)/python tools/run_in_foreground.py $(PYTHON_DIR)/python tools/demo.py $(PYTHON_DIR)/wayhold $(ARGS)

test: setup ## all tests that need only Python, on real servers
	$(call timed,$(TEST_TAKES),$(PYTEST) $(ARGS))
	@$(PYTHON_DIR)/python tools/test_clients.py

test-fast: setup ## the tests without acceptance and slow ones
	$(call timed,2 minutes,$(PYTEST) -m "not slow" --ignore=tests/acceptance --hypothesis-profile=fast $(ARGS))

test-clients: setup ## tests of the console and of clients in other languages, where their tools are installed
	$(PYTHON_DIR)/python tools/test_clients.py

check: setup-dev ## linters, types, import directions, Lua and SQL headers
	$(call timed,half a minute,$(CHECKS))

fix: setup-dev ## let the linters repair and format what they can
	$(PYTHON_DIR)/ruff check --fix
	$(PYTHON_DIR)/ruff format

clean: ## remove the virtual environment and caches; data stays
	rm -rf .venv .venvs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

reset-data: setup-run ## empty the data folder of `make run`: all players, logs, the development secret
	$(PYTHON_DIR)/python tools/reset_data.py

planted-bugs: setup ## plant bugs into a copy of the gateway; the load test must list each and nothing else (ARGS='--seeds 3')
	$(call timed,4 minutes,$(PYTHON_DIR)/python -m tests.faults.planted_bugs $(ARGS))

faults: setup ## break real processes and links under load for half an hour, and count what is lost (MINUTES=5 for less)
	$(call timed,$(or $(MINUTES),30) minutes,$(PYTHON_DIR)/python -m tests.faults $(ARGS))

bench: setup-run ## measure what Wayhold costs on this machine, for half an hour (MINUTES=10 for less)
	$(call timed,$(or $(MINUTES),30) minutes,$(PYTHON_DIR)/python -m benchmarks --minutes $(or $(MINUTES),30) $(ARGS))

bench-data-model: setup-run ## the data model's tables of targets with a measured column; the first run fills 10 million events
	$(call timed,$(or $(MINUTES),10) minutes and once 10 more to fill a database,$(PYTHON_DIR)/python -m benchmarks.data_model --minutes $(or $(MINUTES),10) $(ARGS))

# Named so that scripts can rely on the names. Not listed by `make` until there is something behind them.
fuzz:
	@echo 'make $@: not part of Wayhold yet'; exit 2

TEST_TAKES = 9 minutes
CHECKS = $(PYTHON_DIR)/ruff check && $(PYTHON_DIR)/ruff format --check && $(PYTHON_DIR)/mypy && \
         $(PYTHON_DIR)/python tools/check_imports.py && $(PYTHON_DIR)/python tools/check_lua.py && \
         $(PYTHON_DIR)/python tools/check_sql.py
