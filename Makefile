# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
# Where another index serves CPU builds of torch, name it here: make demo TORCH_INDEX=<address>
TORCH_INDEX ?=

ifneq ($(TORCH_INDEX),)
export PIP_EXTRA_INDEX_URL := $(TORCH_INDEX)
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1

BIN := $(VENV)/bin
PACKAGES := $(sort $(wildcard trimtab plugins/* monitors/* flows/*))
# Changes when a package folder is added or removed, which an editable install does not notice.
STAMP := $(shell echo "$(PACKAGES)" | cksum | cut -d' ' -f1)

.PHONY: demo test test-servers soak check format docs clean
.PHONY: bench-rounds bench-kill bench-seeds bench-trust bench-optimization bench-search bench-recalibrate bench-monitoring bench-scrape bench-loop bench-techniques bench-aware bench-fewshot bench-rebalance

demo: $(VENV)/.installed-$(STAMP)
	$(BIN)/trimtab demo

# Needs no root and no server: a test of a server that is not on the machine is left out, with the reason.
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 30

# Those alone that need real servers; one that is missing is a failure.
test-servers: $(VENV)/.testing-$(STAMP)
	TRIMTAB_REQUIRE=servers $(BIN)/python -m pytest -m "servers and not soak" tests

# What takes long, and looks for what grows.
soak: $(VENV)/.testing-$(STAMP)
	$(BIN)/python -m pytest -m soak --timeout 7200 tests

check: $(VENV)/.testing-$(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy benchmarks/*.py
	$(BIN)/lint-imports

format: $(VENV)/.testing-$(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-rounds bench-kill bench-seeds: $(VENV)/.installed-$(STAMP)
	$(BIN)/python benchmarks/$(subst bench-,,$@).py

# QUICK=1: at most ten minutes, and figures that say little; ONLY=NAME,... some parts of monitoring, or techniques. They need the extras, which development installs.
bench-trust bench-optimization bench-search bench-recalibrate bench-monitoring bench-scrape bench-loop bench-techniques bench-aware bench-fewshot bench-rebalance: $(VENV)/.testing-$(STAMP)
	$(BIN)/python benchmarks/$(subst bench-,,$@).py $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

docs: $(VENV)/.testing-$(STAMP)
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) .trimtab build dist *.egg-info

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.testing-$(STAMP): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed-$(STAMP)
