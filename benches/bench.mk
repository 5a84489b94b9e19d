# Side-by-side benchmarks of Shoal and Ray; included by the Makefile at the root.
#
#   make bench-ray      the whole comparison (about 25 minutes)
#   make bench-quick    the most telling lines (a few minutes)
#
# Options of benches/side_by_side/run.py go into BENCH_OPTIONS, for example
#   make bench-ray BENCH_OPTIONS="--scale --rounds 5"

#   make bench-network  Shoal over a network of namespaces, beside Ray and iperf3 (root; about 15 minutes)
#
# Options of benches/network/run.py go into NETWORK_OPTIONS, for example
#   make bench-network NETWORK_OPTIONS="transfer --rounds 5"

#   make bench-daemons  a hundred real daemons on this machine, idle (a minute or two)
#
# Options of benches/network/many_daemons.py go into DAEMONS_OPTIONS, for example
#   make bench-daemons DAEMONS_OPTIONS="--nodes 300"

# The target that installs Shoal with numpy into .venv.
BENCH_SHOAL ?= build
BENCH_OPTIONS ?=
NETWORK_OPTIONS ?=
DAEMONS_OPTIONS ?=
BENCH_PYTHON ?= python3

RAY_ENVIRONMENT := .venv-ray
RAY_REQUIREMENTS := benches/side_by_side/requirements.txt
RAY_INSTALLED := $(RAY_ENVIRONMENT)/.installed

.PHONY: bench-ray bench-quick bench-network bench-daemons

bench-ray: $(RAY_INSTALLED) $(BENCH_SHOAL)
	$(RAY_ENVIRONMENT)/bin/python benches/side_by_side/run.py $(BENCH_OPTIONS)

bench-quick: $(RAY_INSTALLED) $(BENCH_SHOAL)
	$(RAY_ENVIRONMENT)/bin/python benches/side_by_side/run.py --quick $(BENCH_OPTIONS)

bench-network: $(RAY_INSTALLED) $(BENCH_SHOAL)
	$(BIN)/python benches/network/run.py $(NETWORK_OPTIONS)

bench-daemons: $(BENCH_SHOAL)
	$(BIN)/python benches/network/many_daemons.py $(DAEMONS_OPTIONS)

$(RAY_INSTALLED): $(RAY_REQUIREMENTS)
	$(BENCH_PYTHON) -m venv --clear $(RAY_ENVIRONMENT)
	echo '*' > $(RAY_ENVIRONMENT)/.gitignore
	$(RAY_ENVIRONMENT)/bin/pip install --quiet --requirement $(RAY_REQUIREMENTS)
	touch $@
