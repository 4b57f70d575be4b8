# Every target sets up what it needs. `make demo` and `make test` work on a fresh clone with
# Python 3.11+, Rust and a C compiler, and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WAN_OUT ?= build/wan
# Processes that share the tests of `make test`, file by file; each has a network of its own.
JOBS ?= 2
RUST_SOURCES := $(shell find rust -name '*.rs' -not -path '*/target/*') $(wildcard Cargo.toml Cargo.lock rust/*/Cargo.toml)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-rust test-nat test-python fuzz fuzz-registry soak mutants bench bench-wan bench-registry bench-relay bench-services bench-monitoring lab lint audit hooks docs-check coverage format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## build the extension and install everything into .venv

$(VENV)/.created:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml $(RUST_SOURCES)
	$(BIN)/python -m pip install --quiet --editable . --group test --group recipes --group lint
	@touch $@

demo: setup ## run the whole stack on an embedded loopback network
	$(BIN)/pilotctl demo

test: test-rust test-python ## run every test

test-rust:
	cargo test --workspace --quiet

test-nat: ## try SEEDS (default 10000) networks behind NAT boxes, in virtual time
	SIM_SEEDS=$(or $(SEEDS),10000) cargo test --release -p pilot-proto --test nat --quiet

test-python: setup ## tests in Python, with JOBS processes (default 2)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile $(PYTEST_FLAGS)

fuzz: fuzz-registry ## run every fuzz target for FUZZ_SECONDS (default 20) each
	rust/fuzz/run.sh $${FUZZ_SECONDS:-20}

soak: setup ## mixed honest and hostile load for SOAK_SECONDS (default 300), after which nothing may be left
	$(BIN)/python -m benches.soak $${SOAK_SECONDS:-300}

fuzz-registry: setup ## attack a registry's session and a standby for SECONDS (default 20)
	$(BIN)/python -m tests.support.hostile $(or $(SECONDS),$${FUZZ_SECONDS:-20})

mutants: ## break the transport one line at a time; what no test notices is listed in .cargo/mutants.toml
	command -v cargo-mutants > /dev/null || cargo install --locked cargo-mutants
	SIM_SEEDS=300 cargo mutants --no-shuffle --output build $(MUTANTS_FLAGS)

bench: setup ## measure throughput, latency, memory and starts beside their yardsticks
	cargo build --release --quiet -p pilot-net --examples
	$(BIN)/python benches/throughput.py
	$(BIN)/python benches/cold_start.py
	$(BIN)/python benches/node.py
	$(BIN)/python benches/http_calls.py
	$(BIN)/python benches/recipes.py

bench-wan: setup ## measure our controllers beside kernel TCP and QUIC over long, lossy paths (root)
	cargo build --release --quiet -p pilot-lab
	cargo build --release --quiet --manifest-path benches/quic-peer/Cargo.toml
	$(BIN)/python -m pip install --quiet --group bench
	$(BIN)/python benches/wan.py --lab target/release/pilot-lab \
		--quic benches/quic-peer/target/release/quic-peer --out $(WAN_OUT) $(WAN_FLAGS)
	$(BIN)/python benches/wan.py --lab target/release/pilot-lab --shares

lab: setup ## put agents behind every pair of NATs in network namespaces (root); LONG=1, QUICK=1
ifdef QUICK
	$(BIN)/python -m pytest tests/lab -m lab --numprocesses $(JOBS) --dist worksteal $(PYTEST_FLAGS)
else
	cargo build --release --quiet -p pilot-lab
	$(BIN)/python -m tests.lab $(if $(LONG),--long) $(LAB_FLAGS)
endif

bench-registry: setup ## measure the registry beside itself without sync, and beside redis
	$(BIN)/python -m benches.registry $(REGISTRY_FLAGS)

bench-services: setup ## measure files beside the raw stream, and a fan-out of events beside a NATS server if there is one
	$(BIN)/python -m benches.services $(SERVICES_FLAGS)

bench-relay: setup ## measure the relay beside a plain UDP forwarder, and a thin flow beside greedy ones
	$(BIN)/python benches/relay.py $(RELAY_FLAGS)

bench-monitoring: setup ## measure what a daemon with 1,000 streams pays for metrics and the dashboard
	$(BIN)/python benches/monitoring.py $(MONITORING_FLAGS)

lint: setup ## formatting, lints, types, stubs, layers and budgets
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps --document-private-items --quiet
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry python
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest pilotstack._core --ignore-missing-stub
	$(BIN)/python -m tests.docs.check
	$(BIN)/python -m pytest tests/layering --quiet

docs-check: setup ## links, snippets, terms and citations of the documents
	$(BIN)/python -m tests.docs.check

coverage: setup ## which lines the tests reach: build/coverage/python and build/coverage/rust
	$(BIN)/python -m pip install --quiet --group coverage
	mkdir -p build/coverage
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest $(COVERAGE_FLAGS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage html --quiet
	$(BIN)/python -m coverage report --skip-covered
	command -v cargo-llvm-cov > /dev/null || cargo install --locked cargo-llvm-cov
	cargo llvm-cov --workspace --quiet --html --output-dir build/coverage/rust

audit: setup ## licences, sources and known flaws of what we depend on (asks the internet)
	command -v cargo-deny > /dev/null || cargo install --locked cargo-deny
	command -v cargo-machete > /dev/null || cargo install --locked cargo-machete
	cargo deny --workspace check
	cargo deny --manifest-path rust/fuzz/Cargo.toml check advisories sources
	cargo deny --manifest-path benches/quic-peer/Cargo.toml check advisories sources
	cargo machete rust benches
	$(BIN)/python -m pip install --quiet --group audit
	$(BIN)/pip-audit --local --skip-editable

hooks: setup ## check what is committed before it is (pre-commit)
	$(BIN)/python -m pip install --quiet --group hooks
	$(BIN)/pre-commit install

format: setup ## rewrite sources in the house format
	cargo fmt --all
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove everything that was built
	rm -rf $(VENV) target build
