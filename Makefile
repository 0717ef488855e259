# What a user, a contributor and CI type. `make help` lists it.

PYTHON ?= python3
VENV ?= .venv
# The versions that CI passed with, on its Python; another Python, or an empty value, takes the newest ones.
CONSTRAINTS ?= $(shell $(PYTHON) -c 'import sys; print("constraints.txt" * (sys.version_info[:2] == (3, 11)))')
# More for pytest, which then runs one test after another: make test ARGS='-k wilson -x'
ARGS ?=

BIN := $(VENV)/bin
INSTALL = $(BIN)/python -m pip install $(if $(CONSTRAINTS),--constraint $(CONSTRAINTS))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow lint check format clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | while IFS='	' read -r target text; do \
		printf '  make %-10s  %s\n' "$$target" "$$text"; done

demo: $(VENV)/installed-demo ## build a bundle from the built-in digits, replay it, print the result
	$(BIN)/edgetl build --data digits --backbone edgetl/nano --target cpu --out dist/digits --force
	$(BIN)/edgetl verify dist/digits

# As many tests at once as there are cores, each on one; then those that look at the clock, one after another.
test: $(VENV)/installed-test ## run the tests that take seconds
ifeq ($(ARGS),)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow and not alone' --numprocesses auto --dist loadfile
	$(BIN)/python -m pytest -m 'alone and not slow'
else
	$(BIN)/python -m pytest $(ARGS)
endif

test-slow: $(VENV)/installed-test ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(VENV)/installed-test ## format, lint and types, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict edgetl

check: ## what CI runs: lint, then test
	$(MAKE) lint
	$(MAKE) test

format: $(VENV)/installed-test ## format the code and mend what can be mended
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## remove caches, build folders and the demo's bundle; the environment and other bundles stay
	rm -rf build dist/digits *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find benchmarks calibration edgetl targets tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The last file that `venv` writes that we need: a half-made environment is made again.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

# Editable, so that a pull needs no new install; both rules share one environment.
$(VENV)/installed-demo: pyproject.toml $(CONSTRAINTS) | $(BIN)/pip
	$(INSTALL) --editable '.[train,ort]'
	touch $@

$(VENV)/installed-test: pyproject.toml $(CONSTRAINTS) | $(BIN)/pip
	$(INSTALL) --editable '.[train,ort,openvino,serve,test]'
	touch $(VENV)/installed-demo $@
