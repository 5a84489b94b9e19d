# Everything a checkout needs: a Rust toolchain, Python 3.11 or newer with venv, and a C compiler.
#
#   make demo    build Shoal and run the demo
#   make test    run every test
#   make help    the other targets
#
# What is built and installed stays inside the checkout: target/ and .venv/.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
CARGO ?= cargo

# `quick` is release without link-time optimisation: it builds in a fraction of the time and runs
# nearly as fast. Benchmarks and wheels use `release`.
PROFILE ?= quick

# `cargo sim`, whose arguments follow.
SIM := $(CARGO) run --locked --quiet --profile sim --package shoal-sim-tests --

# The same with known bugs in its machines, which therefore are built once more.
MUTANTS := $(CARGO) run --locked --quiet --profile sim --package shoal-sim-tests --features mutants --bin mutants --

# `cargo explore`, likewise.
EXPLORE := $(CARGO) run --locked --quiet --profile sim --package shoal-explore --

# Simulated runs in `make test`, always the same ones; minutes of new ones in `make sim`.
SEED ?= 1
SEEDS ?= 4000
MINUTES ?= 10
KILLS ?= 100

ENVIRONMENT := .venv
BIN := $(CURDIR)/$(ENVIRONMENT)/bin
INSTALLED := $(ENVIRONMENT)/.installed
JOBS := $(shell nproc 2>/dev/null || echo 2)

# The extension module links a shared libpython, which not every Python has. It has no Rust tests of
# its own: the Python tests are its tests.
RUST := --workspace --exclude shoal-python

.PHONY: help build demo test test-rust test-schedules test-sim test-mutants test-explore test-python test-chaos test-demo sim mutants explore chaos heads
.PHONY: lint format wheel clean
.PHONY: bench-core bench-build fuzz

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 26

# What python/pyproject.toml asks for to build, to run and to test.
REQUIREMENTS := 'import tomllib; \
    file = tomllib.load(open("python/pyproject.toml", "rb")); project = file["project"]; \
    print(*file["build-system"]["requires"], *project["dependencies"], \
    *project["optional-dependencies"]["dev"], sep="\n")'

# --- Build --------------------------------------------------------------------------------------

$(INSTALLED): python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Shoal needs Python 3.11 or newer; this is " + sys.version)'
	$(PYTHON) -m venv $(ENVIRONMENT)
	@$(BIN)/python -c $(REQUIREMENTS) > $(ENVIRONMENT)/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --requirement $(ENVIRONMENT)/requirements.txt
	touch $@

# Installed once, as editable; from then on only the extension module is replaced.
build: $(INSTALLED) ## Build the extension module into .venv
	@echo "building the extension module (profile $(PROFILE); the first time takes minutes)"
	@VIRTUAL_ENV=$(CURDIR)/$(ENVIRONMENT) $(BIN)/maturin develop --quiet --profile $(PROFILE) \
	    --manifest-path python/Cargo.toml $(if $(wildcard $(ENVIRONMENT)/bin/shoal),--skip-install) > /dev/null

wheel: $(INSTALLED) ## Build a wheel with full optimisation into dist/
	$(BIN)/maturin build --release --manifest-path python/Cargo.toml --out dist

clean: ## Remove everything that was built or installed
	rm -rf target dist .venv .venv-ray python/shoal/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- Run ----------------------------------------------------------------------------------------

demo: build ## Index the Python standard library in parallel
	$(BIN)/python examples/index_library

# --- Test ---------------------------------------------------------------------------------------

test: test-rust test-schedules test-sim test-mutants test-explore test-python test-chaos test-demo ## Run every test

test-rust: ## Rust: machines, store, daemon, command
	@command -v etcd >/dev/null || echo "SKIPPED: the log in etcd, for there is no etcd here (Debian: apt-get install etcd-server)"
	@if $(CARGO) nextest --version >/dev/null 2>&1; \
	then $(CARGO) nextest run --locked --status-level fail $(RUST) && $(CARGO) test --locked --quiet --doc $(RUST); \
	else $(CARGO) test --locked --quiet $(RUST); \
	fi

# madsim takes tokio's place. Looking for differences runs one seed, twice.
SCHEDULES := RUSTFLAGS="--cfg madsim" $(CARGO) test --locked --quiet --package shoal-sim-tests --test madsim_sessions

test-schedules: ## The driver of sessions, with its tasks in random order
	MADSIM_TEST_SEED=$(SEED) MADSIM_TEST_NUM=100 $(SCHEDULES)
	MADSIM_TEST_SEED=$(SEED) MADSIM_TEST_CHECK_DETERMINISM=1 $(SCHEDULES)

test-sim: ## A short simulation, each seed run twice
	$(SIM) $(SEED) --seeds $(SEEDS) --jobs $(JOBS) --doublecheck

test-mutants: ## A few known bugs, put back in, are caught by the simulation
	$(MUTANTS) --least 0 --most 1000 --jobs $(JOBS) Canary LeakLease KeepGrants ForgetWorker BlameUnstarted ForgetHolders ConsumerProgress SortArguments SlowIsDead ForgetUnsent ForgetOrphanedCopy

test-explore: ## Every interleaving of small clusters
	$(EXPLORE) --jobs $(JOBS)

test-python: build ## Python: the package, clusters, types
	cd python && $(BIN)/python -m pytest -q
	$(BIN)/python -m pytest -q --config-file python/pyproject.toml --rootdir examples/chaos examples/chaos

test-chaos: build ## A short time of faults in a real cluster under work
	$(BIN)/python -m chaos --seed $(SEED) --minutes 0.4 --nodes 2
	@# Interrupted, it closes everything down, as it does when its time is over.
	code=0; timeout --preserve-status -s INT 8 $(BIN)/python -m chaos --seed $(SEED) --minutes 5 --nodes 2 --quiet || code=$$?; test $$code -eq 130
	$(BIN)/python -m chaos.heads --seed $(SEED) --kills 2 --state file
	$(BIN)/python -m chaos.heads --seed $(SEED) --kills 2 --state etcd

test-demo: build ## The demo on a part of its input, compared with the serial result
	$(BIN)/python examples/index_library --files 150 --output target/demo

sim: ## A long simulation (MINUTES=10)
	$(SIM) --minutes $(MINUTES) --jobs $(JOBS) --doublecheck --rare

mutants: ## Put back every known bug, and write which checks catch it into sim-tests/README.md
	$(MUTANTS) --jobs $(JOBS) --write sim-tests/README.md

chaos: build ## A long time of faults in a real cluster under work (MINUTES=10)
	$(BIN)/python -m chaos --minutes $(MINUTES) --quiet

heads: build ## Kill the head KILLS times under work, with its log in a file and in etcd (KILLS=100)
	$(BIN)/python -m chaos.heads --kills $(KILLS) --state file
	$(BIN)/python -m chaos.heads --kills $(KILLS) --state etcd

explore: ## Every interleaving of larger ones: minutes, and gigabytes of memory
	$(EXPLORE) --deep

# What libFuzzer finds lies in fuzz/artifacts, what it learns in target/fuzz-corpus; the seeds in
# fuzz/corpus stay as they are.
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
NIGHTLY ?= nightly

fuzz: ## Fuzz every decoder and machine (MINUTES=10 in all; needs nightly Rust and cargo-fuzz)
	@$(CARGO) fuzz --version >/dev/null 2>&1 || { echo "cargo-fuzz is missing: cargo install cargo-fuzz"; exit 1; }
	@for target in $(FUZZ_TARGETS); do \
	    learned=target/fuzz-corpus/$$target; seeds=fuzz/corpus/$$target; mkdir -p $$learned $$seeds; \
	    echo "==> $$target"; \
	    $(CARGO) +$(NIGHTLY) fuzz run --target-dir target/fuzz $$target $$learned $$seeds -- -timeout=20 -max_len=4096 \
	        -print_final_stats=1 -max_total_time=$$(( $(MINUTES) * 60 / $(words $(FUZZ_TARGETS)) )); \
	done

# --- Look ---------------------------------------------------------------------------------------

lint: $(INSTALLED) ## Check format, lints and types
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	cd python && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	cd benches/side_by_side && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	cd benches/network && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/ruff check --config python/pyproject.toml examples chaos
	$(BIN)/ruff format --check --config python/pyproject.toml examples chaos
	cd python && $(BIN)/mypy
	@# The lints need no build: the examples find the package in its source.
	MYPYPATH=python $(BIN)/mypy --config-file python/pyproject.toml examples/index_library
	MYPYPATH=python $(BIN)/mypy --config-file python/pyproject.toml -p chaos

format: $(INSTALLED) ## Format everything
	$(CARGO) fmt --all
	$(BIN)/ruff format --config python/pyproject.toml python examples
	cd benches/side_by_side && $(BIN)/ruff format .
	cd benches/network && $(BIN)/ruff format .

# --- Measure ------------------------------------------------------------------------------------

bench-core: ## Criterion benchmarks of the machines, without Python
	$(CARGO) bench --locked --package shoal-benches

# The comparison with Ray measures what users get: full optimisation.
bench-build:
	$(MAKE) build PROFILE=release

BENCH_SHOAL := bench-build
BENCH_PYTHON := $(PYTHON)
include benches/bench.mk
