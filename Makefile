# SPDX-License-Identifier: Apache-2.0

.PHONY: setup demo check test bench

setup:
	tests/setup.sh

# Builds the image of the demo layer. A second run has nothing to build.
demo: setup
	cargo run --quiet --release --package bitzel -- build --build-dir .demo/build --bitbake .demo/bitbake demo-image

# Formats, lints, documentation and unit tests.
check: setup
	python3 tests/run.py check

# All checks and tests, as in continuous integration; with ARGS only the Rust tests that these arguments of
# `cargo nextest run` select: make test ARGS="-p bitzel-worker kept_outputs"
test: setup
	python3 tests/run.py $(if $(ARGS),part $(ARGS),all)

# Runs the benchmarks, writes target/bench.json and prints it as a table.
bench: setup
	python3 benches/collect.py
