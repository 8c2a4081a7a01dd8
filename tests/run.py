#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Runs checks and tests of the project, and prints one last line that counts them all, also the skipped ones.

usage: run.py check            formats, lints, documentation, unit tests
       run.py all              everything, as in continuous integration
       run.py part ARGUMENT... the Rust tests that arguments of `cargo nextest run` select
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".demo" / "tools" / "bin"
BITBAKE = ROOT / ".demo" / "bitbake"
# Written by cargo-nextest (.config/nextest.toml).
JUNIT = ROOT / "target" / "nextest" / "default" / "junit.xml"
CHART_TESTS = Path("helm/tests")
# An environment of its own: the schemas of Kubernetes, and what reads them (tests/setup.sh).
CHART_PYTHON = ROOT / ".demo" / "peers" / "kubernetes-validate" / "bin" / "python"
FUZZ_SECONDS = "10"
SLOWEST_TESTS = 10

NEXTEST_SUMMARY = re.compile(
    r"^ *Summary \[.*\] +(?:\d+/)?(\d+) tests? run: (\d+) passed(?: \([^)]*\))?(?:, .*?)?, (\d+) skipped"
)
FUZZ_RESULT = re.compile(r"^fuzz targets: (\d+) passed, (\d+) failed")
# Printed by a passing test whose subject was not tested: a program or a feature of the machine is missing.
SKIPPED = re.compile(r"\bSKIPPED: (.+)$", re.MULTILINE)
UNITTEST_RUN = re.compile(r"^Ran (\d+) tests?")
UNITTEST_DETAIL = re.compile(r"\b(failures|errors|skipped|unexpected successes)=(\d+)")


@dataclass
class Count:
    """Numbers of checks and tests by outcome, and the reasons of the skipped ones."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, other: Count) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.reasons += other.reasons

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclass
class Result:
    """Outcome of one step."""

    name: str
    count: Count
    seconds: float


Counter = Callable[[list[str]], Count]


def count_nextest(lines: list[str]) -> Count:
    """Counts ignored tests and passing tests with a SKIPPED line as skipped; prints the slowest tests."""
    summaries = [match for line in lines if (match := NEXTEST_SUMMARY.match(line))]
    if not summaries or not JUNIT.is_file():
        return Count(failed=1)
    run, passed, not_run = (int(number) for number in summaries[-1].groups())
    cases = list(ElementTree.parse(JUNIT).getroot().iter("testcase"))
    print(f"\nthe {SLOWEST_TESTS} slowest tests:")
    for case in sorted(cases, key=seconds_of, reverse=True)[:SLOWEST_TESTS]:
        print(f"{seconds_of(case):7.1f} s  {case.get('classname')} {case.get('name')}")
    reasons = [reason for case in cases if (reason := skip_reason(case))]
    count = Count(passed - len(reasons), run - passed, not_run + len(reasons), reasons)
    if not_run:
        count.reasons.append(f"{not_run} tests that are #[ignore]d or not selected")
    return count


def seconds_of(case: ElementTree.Element) -> float:
    return float(case.get("time", 0))


def skip_reason(case: ElementTree.Element) -> str | None:
    """The text of the SKIPPED line in the output of a passing test."""
    if case.find("failure") is not None or case.find("error") is not None:
        return None
    output = "\n".join(case.findtext(stream) or "" for stream in ("system-out", "system-err"))
    match = SKIPPED.search(output)
    return match[1] if match else None


def count_fuzz_targets(lines: list[str]) -> Count:
    found = [match for line in lines if (match := FUZZ_RESULT.match(line))]
    return Count(int(found[-1][1]), int(found[-1][2])) if found else Count(failed=1)


def count_unittest(lines: list[str]) -> Count:
    """Counts tests of unittest; the reasons are those of SKIPPED lines."""
    total = sum(int(match[1]) for line in lines if (match := UNITTEST_RUN.match(line)))
    details = [
        detail
        for line in lines
        if line.startswith(("OK (", "FAILED ("))
        for detail in UNITTEST_DETAIL.findall(line)
    ]
    skipped = sum(int(number) for name, number in details if name == "skipped")
    failed = sum(int(number) for name, number in details if name != "skipped")
    reasons = [match[1] for line in lines if (match := SKIPPED.search(line))]
    # A module that is skipped as a whole is skipped once, and none of its tests is among the total.
    return Count(max(total - failed - skipped, 0), failed, skipped, reasons)


def run(name: str, command: list[str], counter: Counter | None = None, **environment: str) -> Result:
    """Runs one step, prints its output as it comes, and counts it.

    A step without tests counts as one check; a step that fails has at least one failure.
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
        if process.returncode == 0 and count.passed == count.skipped == 0:
            print(f"{name} passed without running a test")
            count.failed = 1
    return Result(name, count, time.monotonic() - started)


def checks() -> list[Result]:
    """Formats, lints and documentation; none of these runs a test."""
    ruff = str(TOOLS / "ruff")
    document = ["cargo", "doc", "--workspace", "--no-deps"]
    return [
        run("format", ["cargo", "fmt", "--all", "--check"]),
        run("python format", [ruff, "format", "--no-cache", "--check", "."]),
        run("python lint", [ruff, "check", "--no-cache", "."]),
        run("lint", ["cargo", "clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
        run("documentation", document, RUSTDOCFLAGS="-D warnings"),
    ]


def python_test_directories() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*test_*.py"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout.split()
    directories = {Path(path).parent for path in listed if Path(path).name.startswith("test_")}
    return sorted(directories - {CHART_TESTS})


def python_tests() -> list[Result]:
    return [
        run(
            f"python tests in {directory}",
            [sys.executable, "-m", "unittest", "discover", "--start-directory", str(directory)],
            count_unittest,
            PYTHONPATH=str(BITBAKE / "lib"),
            PYTHONDONTWRITEBYTECODE="1",
            BITZEL_TEST_BITBAKE=str(BITBAKE),
        )
        for directory in python_test_directories()
    ]


def rust_tests(name: str, arguments: list[str], **environment: str) -> Result:
    """The Rust tests that arguments of `cargo nextest run` select."""
    JUNIT.unlink(missing_ok=True)
    command = [str(TOOLS / "cargo-nextest"), "nextest", "run", *arguments]
    return run(name, command, count_nextest, BITZEL_TEST_BITBAKE=str(BITBAKE), **environment)


def unit_tests() -> Result:
    return rust_tests("unit tests", ["--workspace", "--lib", "--bins"])


def program() -> Path:
    """The bitzel program that cargo builds with the test programs."""
    metadata = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
    document = json.loads(subprocess.run(metadata, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return Path(document["target_directory"]) / "debug" / "bitzel"


def integration_tests() -> Result:
    """All test programs. The end-to-end tests use the bitzel program that cargo has built with them."""
    return rust_tests("integration tests", ["--workspace", "--test", "*"], BITZEL_BIN=str(program()))


def chart_tests() -> Result:
    """The tests of the Helm chart, after the integration tests: they run the program that those have built."""
    name = "chart tests"
    if not CHART_PYTHON.exists():
        reason = f"{name}: {CHART_PYTHON} is missing; tests/setup.sh installs it"
        print(f"\n=== {name}\nSKIPPED: {reason}")
        return Result(name, Count(skipped=1, reasons=[reason]), 0.0)
    command = [str(CHART_PYTHON), "-m", "unittest", "discover", "--start-directory", str(CHART_TESTS)]
    return run(
        name,
        command,
        count_unittest,
        PYTHONPATH=str(ROOT / "helm"),
        PYTHONDONTWRITEBYTECODE="1",
        BITZEL_BIN=str(program()),
    )


def everything() -> list[Result]:
    deny = [str(TOOLS / "cargo-deny"), "check", "bans", "licenses", "sources"]
    return [
        *checks(),
        run("dependencies", deny),
        *python_tests(),
        unit_tests(),
        integration_tests(),
        chart_tests(),
        run("fuzzing", ["tests/fuzz/run.sh", FUZZ_SECONDS], count_fuzz_targets),
    ]


def main(arguments: list[str]) -> int:
    mode, *selection = arguments or ["all"]
    if mode == "check":
        results = [*checks(), *python_tests(), unit_tests()]
    elif mode == "part":
        results = [rust_tests("part", selection)]
    elif mode == "all":
        results = everything()
    else:
        sys.exit(__doc__)
    total = Count()
    print("\n=== summary")
    for result in results:
        print(f"{result.seconds:7.1f} s  {result.name}: {result.count}")
        total.add(result.count)
    for reason in total.reasons:
        print(f"skipped: {reason}")
    print(total)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
