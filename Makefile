# Everything runs inside .venv, which `make setup` makes from the locked requirements. `make` alone lists the targets.
# The Python to make it from: make setup PYTHON=python3.12        arguments for run, test, bench, load: ARGS="--once"

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready
LOCKED := requirements/run.txt requirements/dev.txt requirements/load.txt requirements/reports.txt
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: help setup run test ablations certify check bench bench-settlement load journey faults kills lock

help:
	@echo "make setup   make .venv from the locked requirements (the other targets do it by themselves)"
	@echo "make run     the demo: embedded PostgreSQL, acquirer stub, switch, one authorization to see"
	@echo "make test    all tests"
	@echo "make ablations  takes each safeguard out of a copy: the test it names must go red"
	@echo "make certify  what an acquirer makes a switch show before it lets it in, for each dialect (about 5 minutes)"
	@echo "make check   ruff, mypy, import-linter"
	@echo "make bench   CPU per authorization against the baseline, memory, added time"
	@echo "make bench-settlement  a million captured transactions priced, posted and cut over: seconds and memory"
	@echo "make load    Locust: steady, ramp, spike; then the three books are compared"
	@echo "make journey  a company and an individual from the application to the first payout, a week of business and another acquirer, over HTTP"
	@echo "make faults  48 kills and other faults of real processes; then the three books are compared (at most 10 minutes)"
	@echo "make kills   204 of them (at most 25 minutes)"
	@echo "make lock    refresh requirements/*.txt from requirements/*.in"

setup: $(READY)

# A half-made .venv (no pip in it) is made anew. The stamp is written last, so an interrupted setup starts again.
$(READY): $(LOCKED) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "setup: $(PYTHON) is missing or older than 3.11; name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo "setup: making .venv with $$($(PYTHON) --version)"; rm -rf .venv; \
	  $(PYTHON) -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; $(PYTHON) -m virtualenv --quiet .venv 2>/dev/null; } || { rm -rf .venv; \
	  echo "setup: $(PYTHON) can make no virtual environment. Install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; \
	  echo "setup: or, without root: $(PYTHON) -m pip install --user virtualenv" >&2; exit 1; }; }
	@echo "setup: 1/5 what the switch needs (about 50 MB, with PostgreSQL)"
	@$(PIP) --require-hashes -r requirements/run.txt
	@echo "setup: 2/5 what its tests need"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@echo "setup: 3/5 what its load tests need"
	@$(PIP) --require-hashes -r requirements/load.txt
	@echo "setup: 4/5 what statements as PDF need (81 MB)"
	@$(PIP) --require-hashes -r requirements/reports.txt
	@echo "setup: 5/5 the switch itself"
	@$(PIP) --no-deps --no-build-isolation -e .
	@touch $(READY)
	@echo "setup: done"

run: $(READY)
	@exec $(BIN)/switch demo $(ARGS)

# Two processes for each core, since tests wait much; each with a PostgreSQL of its own; a file stays in one. One process: make test PROCESSES=0
# Bytecode is kept whatever the shell says: hundreds of short processes would compile everything anew.
PROCESSES ?= $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) * 2 )))
test ablations: export PYTHONDONTWRITEBYTECODE =
test: $(READY)
	@exec $(BIN)/python -m pytest -n $(PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

ablations: $(READY)
	@exec $(BIN)/python -m tests.ablations $(ARGS)

certify: $(READY)
	@exec $(BIN)/python -m tests.certify $(ARGS)

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	@exec $(BIN)/python -m loadtests.bench $(ARGS)

bench-settlement: $(READY)
	@exec $(BIN)/python -m loadtests.settlement $(ARGS)

load: $(READY)
	@exec $(BIN)/python -m loadtests.load $(ARGS)

journey: $(READY)
	@exec $(BIN)/python -m loadtests.journey $(ARGS)

faults: $(READY)
	@exec $(BIN)/python -m tests.faults.nemesis --kills 48 --seconds 400 $(ARGS)

kills: $(READY)
	@exec $(BIN)/python -m tests.faults.nemesis --kills 204 --seconds 1200 $(ARGS)

# The files name no host: a lock with an address in it is refused.
lock: $(READY)
	@$(PIP) 'uv==0.13.*'
	@cd requirements && for group in run dev load reports; do \
	  echo "lock: $$group"; \
	  ../$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	    $$group.in --output-file $$group.new || { rm -f $$group.new; exit 1; }; \
	  if grep -n '://' $$group.new; then \
	    echo "lock: refused, $$group.txt would name a host; take the address out of $$group.in" >&2; rm -f $$group.new; exit 1; fi; \
	  mv $$group.new $$group.txt; done
