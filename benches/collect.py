#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every benchmark, writes target/bench.json and prints it as a table.

A benchmark is a `[[bench]]` of a crate, or a Python program beside this file. It prints each result as one line of
JSON with these keys, and any other text on other lines:

    {"name", "value", "unit", "reference", "reference_value", "ratio"}

`reference` is the name of the floor or peer that was measured in the same run; `ratio` is value divided by
reference_value.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEYS = ("name", "value", "unit", "reference", "reference_value", "ratio")


def cargo_metadata() -> dict:
    command = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def benchmark_commands(metadata: dict) -> list[list[str]]:
    commands = [
        ["cargo", "bench", "--package", package["name"], "--bench", target["name"]]
        for package in metadata["packages"]
        for target in package["targets"]
        if "bench" in target["kind"]
    ]
    programs = sorted(path for path in Path(__file__).parent.glob("*.py") if path != Path(__file__).resolve())
    return commands + [[sys.executable, str(path)] for path in programs]


def result_in(line: str) -> dict | None:
    """The result in a line of output, if it has one."""
    if not line.startswith("{"):
        return None
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return {key: document[key] for key in KEYS} if set(KEYS) <= set(document) else None


def run(command: list[str]) -> tuple[list[dict], bool]:
    """Runs one benchmark; returns its results and True if it succeeded with at least one."""
    print(f"\n=== {' '.join(command)}", flush=True)
    results = []
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if result := result_in(line):
                results.append(result)
    return results, process.returncode == 0 and bool(results)


def formatted(value: float | None) -> str:
    return "" if value is None else f"{value:,.3f}".rstrip("0").rstrip(".")


def table(results: list[dict]) -> str:
    rows = [("benchmark", "value", "unit", "reference", "its value", "ratio")]
    rows += [
        (
            result["name"],
            formatted(result["value"]),
            result["unit"],
            result["reference"] or "",
            formatted(result["reference_value"]),
            formatted(result["ratio"]),
        )
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows
    )


def main() -> int:
    metadata = cargo_metadata()
    results, failed = [], []
    for command in benchmark_commands(metadata):
        found, succeeded = run(command)
        results += found
        if not succeeded:
            failed.append(" ".join(command))
    output = Path(metadata["target_directory"]) / "bench.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(results)}\n\n{output}")
    for command in failed:
        print(f"failed, or printed no result: {command}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
