# One door to everything: build and demo, tests, checks. What it makes lies in .venv, build and dist; `make clean` removes it.
#
# PYTHON     the Python that makes .venv (>= 3.10)                              make demo PYTHON=python3.12
# PIP_FLAGS  more options for pip, say PyTorch's index of builds without CUDA   make demo PIP_FLAGS="--extra-index-url URL"
# ARGS       more options for the demo or for pytest                            make test ARGS="-k packet -x"
# EXTRAS     what tests are installed with; dev,bench has the bench's peers    make test EXTRAS=dev,bench
# RUNS, SEED    runs in which a tier is killed, and the seed of the first      make kill-test RUNS=1000 SEED=5000
# FUZZ_SECONDS  how long each fuzzer searches                                   make fuzz FUZZ_SECONDS=3600
# LINK_RUNS  random histories of two ends on a bad line                         make nightly LINK_RUNS=100000
# DIFFERENTIAL_RUNS  damaged inputs of C against references, a test              make nightly DIFFERENTIAL_RUNS=10000000

PYTHON ?= python3
LINK_RUNS ?= 10000
DIFFERENTIAL_RUNS ?= 1000000
PIP_FLAGS ?=
ARGS ?=
EXTRAS ?= dev
FUZZ_SECONDS ?= 30
RUNS ?= 200
# Three losses of power in each.
BOARD_RUNS ?= 70
SEED ?= 0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL = $(PIP) install --constraint constraints.txt $(PIP_FLAGS)

CORE := $(wildcard kernels/core/*.[ch] kernels/core/arch/*.[ch])
SEALING := $(wildcard kernels/core/seal/*.[ch])
FIRMWARE := $(wildcard firmware_bridge/*.[ch] firmware_bridge/*/*.[ch] firmware_bridge/*/*/*.[ch])
FACES := $(wildcard kernels/*.pyx kernels/*.pxd kernels/*.pxi)
# An install is repeated when one of these is younger than its stamp; a wheel also when a Python file is.
SOURCES := pyproject.toml setup.py constraints.txt $(CORE) $(FACES)
PARTS := src/seamline kernels runtime edge_host cloud firmware_bridge
PACKAGE := $(SOURCES) $(SEALING) $(FIRMWARE) MANIFEST.in README.md $(wildcard src/seamline/* $(PARTS:=/*.py) kernels/*.pyi)

# A tier does its work in one thread; threads of BLAS only get in each other's way.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

FUZZES := $(patsubst tests/fuzz/fuzz_%.c,fuzz-%,$(wildcard tests/fuzz/fuzz_*.c))

.PHONY: help install demo test kill-test check format lint cython-lint c-format spelling strict-c types imports sizes fuzz nightly \
	boards wheel wheel-demo clean $(FUZZES)
.DELETE_ON_ERROR:

help:
	@echo "make demo        build, install into .venv, fetch the smartwatch data, train a fleet (ARGS=... for the demo)"
	@echo "make test        install the test extras and run the tests (ARGS=... for pytest)"
	@echo "make kill-test   kill tiers at random messages and compare the bits (RUNS=200 SEED=0), also of boards (BOARD_RUNS=70)"
	@echo "make check       format, lint, types, import direction, strict C, what the wheel holds"
	@echo "make boards      count the int8 layers' instructions on emulated Cortex-M boards (ARGS=an386 for one)"
	@echo "make fuzz        search bytes that break the parsers (clang; FUZZ_SECONDS=... each)"
	@echo "make nightly     long random searches: a fault that hangs the link (LINK_RUNS=...), bytes that C and its references"
	@echo "                 read differently (DIFFERENTIAL_RUNS=...), and make kill-test"
	@echo "make wheel-demo  the wheel in an empty environment runs a small demo"
	@echo "make clean       remove .venv and everything built"

# ---- the two commands of the README ----

demo: $(VENV)/installed
	$(BIN)/seamline data get watch
	$(BIN)/seamline demo $(ARGS)

test: $(VENV)/tested
	$(BIN)/pytest $(ARGS)

kill-test: $(VENV)/tested
	$(BIN)/python tests/fleet/kills.py --runs $(RUNS) --seed $(SEED)
	$(BIN)/python tests/fleet/kills.py --boards --runs $(BOARD_RUNS) --seed $(SEED)

nightly: $(VENV)/tested kill-test
	SEAMLINE_LINK_RUNS=$(LINK_RUNS) SEAMLINE_DIFFERENTIAL_RUNS=$(DIFFERENTIAL_RUNS) $(BIN)/pytest --timeout=0 \
		tests/runtime/test_link_machine.py tests/fuzz $(ARGS)

boards: $(VENV)/installed
	$(BIN)/python -m seamline.firmware_bridge.layers $(ARGS)

# ---- the environment ----

install: $(VENV)/installed

$(VENV)/made:
	@sh .ci/tools $(PYTHON)
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/installed: $(VENV)/made $(SOURCES)
	@echo "building and installing seamline[edge,cloud] into $(VENV) (the first time takes minutes: PyTorch is large)"
	@$(INSTALL) --editable ".[edge,cloud]"
	@touch $@

$(VENV)/tested: $(VENV)/made $(SOURCES)
	@echo "building and installing seamline[$(EXTRAS)] into $(VENV) (the first time takes minutes: PyTorch is large)"
	@$(INSTALL) --editable ".[$(EXTRAS)]"
	@touch $(VENV)/installed $@

# ---- checks ----

check: format lint cython-lint c-format spelling strict-c types imports sizes
	@echo "all checks passed"

format: $(VENV)/tested
	$(BIN)/ruff format --check --quiet --diff .

lint: $(VENV)/tested
	$(BIN)/ruff check --quiet --output-format concise .

# It starts pycodestyle by name.
cython-lint: $(VENV)/tested
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint $(FACES)

c-format: $(VENV)/tested
	$(BIN)/clang-format --dry-run --Werror $(CORE) $(SEALING) $(FIRMWARE)

spelling: $(VENV)/tested
	$(BIN)/codespell

STRICT := -std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wmissing-prototypes -Werror \
	-ffp-contract=off -fno-strict-aliasing -fwrapv -ffreestanding -O2

strict-c:
	@sh .ci/tools $(PYTHON)
	@for file in $(filter %.c,$(CORE) $(SEALING)); do \
		$(CC) $(STRICT) -Ikernels/core -c $$file -o /dev/null || exit 1; \
	done; echo "strict C: $(words $(filter %.c,$(CORE) $(SEALING))) files without a warning"

# mypy and import-linter read what a user gets: the wheel, laid out flat. An editable install keeps the parts in folders
# of their own, which neither of them follows.
types: build/flat/made
	MYPYPATH=build/flat $(BIN)/mypy --package seamline

imports: build/flat/made
	PYTHONPATH=build/flat $(BIN)/lint-imports --no-logo --no-cache

sizes: dist/made
	$(BIN)/python .ci/sizes.py dist

# ---- fuzzing: each target starts from the seeds and keeps what it finds in build/fuzz ----

FUZZ_CC ?= clang

.SECONDARY: $(FUZZ_CORE)

# `make -j2 fuzz` runs two at a time.
fuzz: $(FUZZES)

$(FUZZES): fuzz-%: build/fuzz/% build/fuzz/seeds/made
	@mkdir -p build/fuzz/found/$*; echo "fuzzing $* for $(FUZZ_SECONDS) s"
	@$< -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 \
		-artifact_prefix=build/fuzz/$*- build/fuzz/found/$* build/fuzz/seeds/$* > build/fuzz/$*.log 2>&1 \
		|| { tail -60 build/fuzz/$*.log; exit 1; }
	@grep -E "number_of_executed_units|new_units_added" build/fuzz/$*.log | sed "s/^/$*: /"

FUZZ_FLAGS := -std=gnu11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -ffp-contract=off -fwrapv \
	-fno-strict-aliasing -Ikernels/core
# Kernels are what parsers guard: they watch their memory only, or their vectors take minutes to compile.
FUZZ_CORE := $(patsubst kernels/core/%.c,build/fuzz/core/%.o,$(filter %.c,$(CORE)))

build/fuzz/core/%.o: kernels/core/%.c $(filter %.h,$(CORE))
	@command -v $(FUZZ_CC) >/dev/null || { echo "error: there is no $(FUZZ_CC). Debian: apt-get install clang libclang-rt-14-dev" >&2; exit 1; }
	@mkdir -p $(@D)
	@$(FUZZ_CC) $(FUZZ_FLAGS) $(if $(findstring /arch/,$<),-fno-sanitize=undefined,-fsanitize=fuzzer-no-link) -c -o $@ $<

build/fuzz/%: tests/fuzz/fuzz_%.c tests/fuzz/fuzz.h $(FUZZ_CORE)
	@echo "building the fuzzer $*"
	@$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $(filter %.c %.o,$^) -lm

# The handshake's has the sealing and its cryptography, too: its objects join the line above.
FUZZ_SEAL := $(patsubst kernels/core/%.c,build/fuzz/core/%.o,$(filter %.c,$(SEALING))) build/fuzz/core/crypto.o
FUZZ_SEAL += build/fuzz/core/monocypher.o
$(FUZZ_SEAL): $(filter %.h,$(SEALING))
build/fuzz/handshake: $(FUZZ_SEAL)

build/fuzz/monocypher/made: $(VENV)/tested firmware_bridge/monocypher.py
	@mkdir -p $(@D)
	@folder=$$($(BIN)/python -m seamline.firmware_bridge.monocypher) && cp "$$folder"/monocypher.[ch] $(@D) \
		|| { echo "error: make fuzz needs Monocypher for its target handshake" >&2; exit 1; }
	@touch $@

build/fuzz/core/crypto.o: firmware_bridge/crypto.c build/fuzz/monocypher/made
	@mkdir -p $(@D)
	@$(FUZZ_CC) $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link -Ikernels/core/seal -Ibuild/fuzz/monocypher -c -o $@ $<

# It is watched for what it is given, not searched itself; without -O2 it would be half of the time.
build/fuzz/core/monocypher.o: build/fuzz/monocypher/made
	@mkdir -p $(@D)
	@$(FUZZ_CC) -std=gnu11 -O2 -g -fsanitize=address -c -o $@ build/fuzz/monocypher/monocypher.c

build/fuzz/seeds/made: $(VENV)/tested tests/fuzz/seeds.py
	$(BIN)/python tests/fuzz/seeds.py build/fuzz/seeds
	@touch $@

# ---- packages ----

wheel: dist/made

dist/made: $(VENV)/tested $(PACKAGE)
	@echo "building the source distribution, and the wheel from it"
	@rm -rf dist && mkdir -p build
	@$(BIN)/python -m build . > build/log 2>&1 || { tail -40 build/log; exit 1; }
	@touch $@

build/flat/made: dist/made
	@rm -rf build/flat && $(BIN)/python -m zipfile -e dist/*.whl build/flat
	@touch $@

wheel-demo: dist/made
	bash .ci/wheel-demo $(PYTHON) $(PIP_FLAGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f kernels/*.so kernels/_core.c kernels/_front.c kernels/_link.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
