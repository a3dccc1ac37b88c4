# hardway: everything a person types. `make help` lists it.
BIN := target/release
STATIC := -C target-feature=+crt-static

.PHONY: help deps build up down test lint unit e2e clients conformance bench

help:
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' Makefile | expand -t 8

deps: ## install what building and running need (apt)
	@scripts/install-deps.sh

build: ## the daemons, the hardway command and the static programs of the images, in target/release
	cargo build --release --workspace --bins
	cargo rustc --release --package deploy --bin hardway-pause -- $(STATIC)
	cargo rustc --release --package deploy --bin hardway-web -- $(STATIC)

up: deps build ## a one-node cluster on this machine
	$(BIN)/hardway up

down: ## remove it without a trace
	$(BIN)/hardway down

test: lint unit build e2e ## everything that must pass

lint: ## formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

unit: ## fast tests, inside the crates
	cargo test --workspace --exclude tests

e2e: ## black-box tests: the real binaries, etcd, containerd, kubectl and packets (root)
	cargo test --package tests -- --test-threads=1 --nocapture

clients: build ## real clients against a control plane: helm (Go), the Python client, kube-rs
	cargo test --package tests --test clients -- --ignored --test-threads=1 --nocapture

conformance: build ## upstream's conformance suite (root, Go; see scripts/conformance.sh)
	@scripts/conformance.sh

bench: build ## compare with recorded or present peers
	@scripts/bench.sh
