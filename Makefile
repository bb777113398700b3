# What people and machines run. "make help" lists it.
#
# Needs on a bare Debian 12: Rust (rust-toolchain.toml names the version; rustup fetches it), and the packages make, gcc
# and libc6-dev (the linker and the C of zstd). Everything else is fetched by tests/servers/fetch.

SHELL := /bin/bash
.DEFAULT_GOAL := help
# Seconds of writing per server in "make demo".
SECONDS_OF_DEMO ?= 15
# Worlds in "make sim", and the number of the first one.
SEEDS ?= 1000000
FIRST ?= 0

.PHONY: help build servers demo test clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

tools:
	@for tool in cargo cc; do command -v $$tool >/dev/null || { \
	  echo "error: $$tool is missing; install Rust from https://rustup.rs and the packages gcc and libc6-dev" >&2; exit 1; }; done
.PHONY: tools

build: tools ## Build the program (target/release/twinlog)
	cargo build --release --locked

servers: ## Get MariaDB, MySQL and sysbench for demo and tests
	tests/servers/fetch

demo: servers build ## Two masters, two engines, a write load on both, every table compared: MariaDB, then MySQL
	target/release/twinlog demo --server mariadb --seconds $(SECONDS_OF_DEMO)
	target/release/twinlog demo --server mysql --seconds $(SECONDS_OF_DEMO)

# Says "N passed, N failed" in its last line.
test: tools ## Check formatting and lints, run all tests (fetches the servers)
	@tests/run

.PHONY: sim
sim: tools ## Simulate SEEDS worlds of two or three nodes, their clients, clocks and crashes
	TWINLOG_SIM_SEEDS=$(SEEDS) TWINLOG_SIM_FIRST=$(FIRST) cargo test --release -p twinlog-tests --test sim -- \
	  --nocapture nodes_converge

# Seconds of hammering per server in "make hot".
HOT_SECONDS ?= 600

.PHONY: hot
hot: tools servers ## Hammer hot rows on two masters of each kind for HOT_SECONDS, engines killed, and compare
	TWINLOG_HOT_SECONDS=$(HOT_SECONDS) cargo test -p twinlog-tests --test real -- --nocapture --test-threads=1 hot_rows

# Minutes of chaos per server; SEED=.. repeats the choices of a run.
MINUTES ?= 10
SEED ?=

.PHONY: chaos
chaos: tools servers ## Kill engines and servers and break the network for MINUTES under load, and account for all writes
	TWINLOG_CHAOS_SECONDS=$$(( $(MINUTES) * 60 )) $(if $(SEED),TWINLOG_CHAOS_SEED=$(SEED)) \
	  cargo test --release --workspace --test chaos -- --nocapture --test-threads=2 storm

# Rounds of "make differential"; SEED=.. repeats those of a run.
ROUNDS ?= 200

.PHONY: differential
differential: tools servers ## Random tables and writes through twinlog and the servers' own replication, ROUNDS times, compared
	TWINLOG_DIFFERENTIAL_ROUNDS=$(ROUNDS) TWINLOG_SEED=$(or $(SEED),$$RANDOM) \
	  cargo test --workspace --test real -- --nocapture --test-threads=2 differential

# One of huge, tiny, tables, large, merged; all of them without.
CASE ?=

.PHONY: size
size: build servers ## Peak memory with a huge transaction, a long backlog, many tables, large rows; CASE=.. for one of them
	TWINLOG_SIZE=full TWINLOG_SIZE_CASE=$(CASE) TWINLOG_BIN=$(CURDIR)/target/release/twinlog cargo test -p twinlog --test size -- \
	  --nocapture --test-threads=1

clean: ## Remove what was built and fetched
	rm -rf target
