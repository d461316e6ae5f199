# Everything runs from this checkout. Without PYTHON= the first command builds .venv from
# requirements.lock; PYTHON=/path/to/python uses an interpreter that already has torch, as it is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
STAMP := $(VENV)/.installed
CITATION := .venv-citation

# Two test files run at a time.
PARALLEL := --numprocesses 2 --dist loadscope

ifdef PYTHON
RUN := $(PYTHON)
ready = @$(PYTHON) .ci/requirements.py $(1)
else
RUN := $(VENV)/bin/python
NEEDS := $(STAMP)
ready = @true
endif

MINUTES := 60

.PHONY: help bench gpu test test-fast lint citation report lock clean

help: ## Show this list
	@echo "Usage: make TARGET [PYTHON=an interpreter that already has torch]"
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 14

bench: $(NEEDS) ## Measure speed and error on this machine (about six minutes), write tables and plots
	$(call ready,bench)
	$(RUN) -m bench quick

gpu: $(NEEDS) ## Turn minutes or an hour on a GPU (MINUTES=60) into a page; resumes where it stopped
	$(call ready,bench)
	$(RUN) -m bench campaign --max-minutes $(MINUTES)

report: $(NEEDS) ## Rebuild every table, plot and page from the stored records (no GPU needed)
	$(call ready,bench)
	$(RUN) -m bench report

test: $(NEEDS) ## Run the whole test suite (no GPU needed)
	$(call ready,test)
	$(RUN) -m pytest $(PARALLEL)

test-fast: $(NEEDS) ## Run the tests that take no longer than some seconds each
	$(call ready,test)
	$(RUN) -m pytest $(PARALLEL) -m "not slow"

lint: $(NEEDS) ## Check style (ruff) and types (mypy)
	$(call ready,lint)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy

citation: $(CITATION)/.installed ## Check CITATION.cff against its schema
	$(CITATION)/bin/cffconvert --validate -i CITATION.cff

# torch and Triton are the pair that torch's own CUDA build asks for. The lock names no build of
# torch and none of its CUDA libraries, so it serves machines with and without a GPU.
lock: $(NEEDS) ## Write requirements.lock anew from pyproject.toml
	$(RUN) -m pip install --quiet pip-tools
	CUSTOM_COMPILE_COMMAND="make lock" $(RUN) -m piptools compile --quiet --upgrade --all-extras \
	    --strip-extras --allow-unsafe --no-emit-options --no-annotate \
	    --constraint .ci/pair.txt --output-file requirements.lock pyproject.toml
	sed -i -E '/^nvidia-ml-py=/!{/^(nvidia|cuda)-/d}; s/^(torch==[0-9.]+)\+.*/\1/' requirements.lock

$(STAMP): requirements.lock
	@python3 -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"error: rnnbench needs Python 3.11 or later, {sys.executable} is {sys.version.split()[0]}")'
	python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --requirement requirements.lock
	@touch $@

$(CITATION)/.installed: .ci/citation.lock
	python3 -m venv $(CITATION)
	$(CITATION)/bin/python -m pip install --quiet --requirement $<
	@touch $@

clean: ## Remove the virtual environment and all caches (never results)
	rm -rf $(VENV) $(CITATION) .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -exec rm -rf {} +
