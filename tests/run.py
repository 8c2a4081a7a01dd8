#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs every check and test of the project and closes with one line that counts them all."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".demo" / "tools" / "bin"
BITBAKE = ROOT / ".demo" / "bitbake"

CARGO_RESULT = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored")
FUZZ_RESULT = re.compile(r"^fuzz targets: (\d+) passed, (\d+) failed")
# A test that lacks a program of others prints this and passes; what it tests was not tested.
SKIPPED_PEER = re.compile(r"\bSKIPPED: ([^:]+): (.+)$")
UNITTEST_RUN = re.compile(r"^Ran (\d+) tests?")
UNITTEST_DETAIL = re.compile(r"\b(failures|errors|skipped|unexpected successes)=(\d+)")


@dataclass
class Count:
    """How many checks or tests came out which way."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def add(self, other: Count) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


Counter = Callable[[list[str]], Count]


def count_cargo(lines: list[str]) -> Count:
    count = Count()
    for line in lines:
        if match := CARGO_RESULT.match(line):
            count.add(Count(*map(int, match.groups())))
    skipped = len(skipped_peers(lines))
    return Count(count.passed - skipped, count.failed, count.skipped + skipped)


def skipped_peers(lines: list[str]) -> list[str]:
    matches = (SKIPPED_PEER.search(line) for line in lines)
    return [f"{match[1]}: {match[2]}" for match in matches if match]


def count_fuzz_targets(lines: list[str]) -> Count:
    found = [match for line in lines if (match := FUZZ_RESULT.match(line))]
    return Count(int(found[-1][1]), int(found[-1][2])) if found else Count(failed=1)


def count_unittest(lines: list[str]) -> Count:
    total = sum(int(match[1]) for line in lines if (match := UNITTEST_RUN.match(line)))
    details = [
        detail
        for line in lines
        if line.startswith(("OK (", "FAILED ("))
        for detail in UNITTEST_DETAIL.findall(line)
    ]
    skipped = sum(int(number) for name, number in details if name == "skipped")
    failed = sum(int(number) for name, number in details if name != "skipped")
    return Count(total - failed - skipped, failed, skipped)


def run(
    name: str, command: list[str], counter: Counter | None = None, **environment: str
) -> tuple[str, Count, float]:
    """Runs one step, shows its output as it comes, and counts it.

    A step without tests inside counts as one; a step that fails counts one failure at least.
    """
    print(f"\n=== {name}: {' '.join(command)}", flush=True)
    started = time.monotonic()
    lines = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip("\n"))
            print(line, end="", flush=True)
    if process.returncode != 0:
        # Negative: the number of the signal that ended it.
        print(f"{name} ended with {process.returncode}")
    if counter is None:
        count = Count(passed=1) if process.returncode == 0 else Count(failed=1)
    else:
        count = counter(lines)
        if process.returncode != 0 and count.failed == 0:
            count.failed = 1
        if process.returncode == 0 and count.passed == 0:
            print(f"{name} passed without running a test")
            count.failed = 1
    return name, count, time.monotonic() - started


def python_test_directories() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*test_*.py"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split()
    return sorted({Path(path).parent for path in listed if Path(path).name.startswith("test_")})


def main() -> int:
    ruff = str(TOOLS / "ruff")
    steps = [
        run("format", ["cargo", "fmt", "--all", "--check"]),
        run("lint", ["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        run("dependencies", [str(TOOLS / "cargo-deny"), "check", "bans", "licenses", "sources"]),
        run("python lint", [ruff, "check", "--no-cache", "."]),
        run("python format", [ruff, "format", "--no-cache", "--check", "."]),
    ]
    for directory in python_test_directories():
        steps.append(
            run(
                f"python tests in {directory}",
                [sys.executable, "-m", "unittest", "discover", "--start-directory", str(directory)],
                count_unittest,
                PYTHONPATH=str(BITBAKE / "lib"),
                PYTHONDONTWRITEBYTECODE="1",
                BITZEL_TEST_BITBAKE=str(BITBAKE),
            )
        )
    steps.append(
        run(
            "rust tests",
            ["cargo", "test", "--workspace", "--no-fail-fast"],
            count_cargo,
            BITZEL_TEST_BITBAKE=str(BITBAKE),
        )
    )

    steps.append(run("fuzzing", ["tests/fuzz/run.sh", "10"], count_fuzz_targets))

    total = Count()
    print("\n=== summary")
    for name, count, seconds in steps:
        print(f"{seconds:7.1f} s  {name}: {count}")
        total.add(count)
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main())
