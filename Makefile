# Build, try, test and check seamline in one .venv; `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml setup.py $(shell find kernels -name '*.pyx' -o -name '*.pxd' -o -name '*.[ch]' | grep -v '^kernels/_[a-z]*\.c$$')
CORE := $(wildcard kernels/core/*.c kernels/core/arch/*.c)
CFLAGS_STRICT := -std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wmissing-prototypes -Werror \
	-ffp-contract=off -fno-strict-aliasing -fwrapv -ffreestanding -O2
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1

.PHONY: help install demo test check lint types imports strict-c wheel wheel-demo clean
help:
	@echo "make demo        build, install into .venv, fetch the smartwatch data, train a fleet"
	@echo "make test        install the test extras and run the tests"
	@echo "make check       format, lint, types, import direction, strict C, wheel"
	@echo "make wheel-demo  the wheel in an empty environment runs a small demo"
	@echo "make clean       remove .venv and everything built"

$(VENV)/made:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON): install Python >= 3.10, or say make PYTHON=..."; exit 1; }
	@command -v cc >/dev/null || { echo "no C compiler: install gcc (Debian: apt-get install gcc)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; h = sysconfig.get_paths()["include"]; sys.exit(not os.path.exists(h + "/Python.h"))' \
		|| { echo "no Python headers: install python3-dev (Debian: apt-get install python3-dev)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "no venv module: install python3-venv (Debian: apt-get install python3-venv)"; exit 1; }
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade pip
	@touch $@

$(VENV)/installed: $(VENV)/made constraints.txt $(SOURCES)
	$(PIP) -e '.[edge,cloud]'
	@touch $@

$(VENV)/tested: $(VENV)/installed
	$(PIP) -e '.[dev]'
	@touch $@

install: $(VENV)/installed

demo: $(VENV)/installed
	$(BIN)/seamline data get watch
	$(BIN)/seamline demo

test: $(VENV)/tested
	$(BIN)/python -m pytest

check: lint strict-c wheel types imports

lint: $(VENV)/tested
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/cython-lint kernels/*.pyx kernels/*.pxd
	$(BIN)/clang-format --dry-run --Werror kernels/core/*.[ch] kernels/core/arch/*.[ch]
	$(BIN)/codespell

# Both look at the package as users get it: the wheel, laid out flat.
types: wheel
	MYPYPATH=build/flat $(BIN)/mypy -p seamline

imports: wheel
	PYTHONPATH=build/flat $(BIN)/lint-imports

strict-c:
	@for f in $(CORE); do $(CC) $(CFLAGS_STRICT) -Ikernels/core -c $$f -o /dev/null || exit 1; done; echo "C: strict, no warning"

wheel: $(VENV)/tested
	rm -rf dist
	$(BIN)/python -m build -q
	rm -rf build/flat && $(BIN)/python -m zipfile -e dist/*.whl build/flat
	@ls -l dist | awk 'NF > 5 {print $$9, $$5, "bytes"}'

wheel-demo: wheel
	rm -rf build/wheel-demo && $(PYTHON) -m venv build/wheel-demo
	build/wheel-demo/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt "$$(ls dist/*.whl)[edge,cloud]"
	build/wheel-demo/bin/seamline data get watch
	cd build/wheel-demo && bin/seamline demo --devices 2 --rounds 1 --out demo

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find kernels -name '*.so' -delete
	rm -f kernels/_core.c kernels/_front.c kernels/_link.c
