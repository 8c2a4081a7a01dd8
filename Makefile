# SPDX-License-Identifier: Apache-2.0

.PHONY: setup demo test bench

setup:
	tests/setup.sh

# Builds the demo layer's image; the second time there is nothing to do.
demo: setup
	cargo run --quiet --release --package bitzel -- build --build-dir .demo/build --bitbake .demo/bitbake demo-image

test: setup
	python3 tests/run.py

# Runs the benchmarks, writes target/bench.json and prints it as a table.
bench: setup
	python3 benches/collect.py
