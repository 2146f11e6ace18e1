# Every target works from a fresh clone: the first one sets up .venv (scripts/setup.sh), which later ones find done.

NPU  ?= edge
ONLY ?=
PAGE ?=
JOBS ?= 2
PROGRAMS ?= 2000
SEED ?= 1
MUTANTS ?= 240

VENV   := .venv
PYTEST := $(VENV)/bin/python -m pytest
PACKAGES := rtl sim compiler firmware cli

.PHONY: help setup sim test verilog bench formal soak mutate lint lock clean
.DEFAULT_GOAL := help

help:  ## This list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

setup:
	@scripts/setup.sh

sim: setup  ## Run the shipped networks on the simulated NPU against the golden model
	@$(VENV)/bin/python scripts/sim.py

# Fast files first, a file on one worker, so that what it builds is built once.
test: setup  ## Run all tests, the co-simulations on Verilator and Icarus included [JOBS=2]
	@$(PYTEST) -n $(JOBS) --dist loadfile --no-loadscope-reorder

verilog: setup  ## Write build/verilog/tessera_$(NPU).v [NPU=edge]
	@$(VENV)/bin/tessera verilog --npu $(NPU)

bench: setup  ## Measure everything against the recorded peers, or one group [ONLY=cycles PAGE=docs]
	@$(VENV)/bin/python scripts/bench.py $(if $(ONLY),--only $(ONLY)) $(if $(PAGE),--page $(PAGE))

formal: setup  ## Run the proofs
	@$(PYTEST) -m formal

# Seeds are a million apart, so that runs with different ones have no program in common.
soak: setup  ## Run thousands of random programs on the RTL [PROGRAMS=2000 SEED=1]
	@$(PYTEST) -m exhaustive tb/test_npu_soak.py --programs $(PROGRAMS) --first-seed $(SEED)000000

mutate: setup  ## Change the hardware a little, and count what the regression notices [MUTANTS=240 SEED=1]
	@$(VENV)/bin/python scripts/mutate.py --mutants $(MUTANTS) --seed $(SEED) --jobs $(JOBS)

lint: setup build/typecheck/tessera  ## Check style and types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/mypy $(PACKAGES:%=-p tessera.%)

# The packages as mypy must see them: tessera/rtl, tessera/sim...
build/typecheck/tessera: Makefile
	@mkdir -p $@
	@ln -sfn $(foreach package,rtl sim compiler firmware,$(CURDIR)/$(package)) $@/
	@ln -sfn $(CURDIR)/scripts/cli $@/cli
	@touch $@

# The newest versions that pyproject.toml allows, in a virtual environment of their own. Without torch, which only
# training and fine-tuning need.
lock:  ## Renew requirements.lock
	@rm -rf build/lock && python3 -m venv build/lock
	@build/lock/bin/pip install --quiet 'setuptools>=77' '.[test,formal,synthesis,bench,lint]'
	@build/lock/bin/pip check
	@build/lock/bin/pip freeze --all | grep -v -e '^pip==' -e '^tessera-npu' > requirements.lock
	@rm -rf build/lock

clean:  ## Remove everything that was built; .venv stays
	@rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
