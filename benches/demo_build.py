#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Benchmark of whole builds of the demo layer: from nothing, unchanged, and on a wiped client with a filled store.

BITBAKE_CHECKOUT can be a checkout of BitBake (the PyPI package has no `bitbake` command). The build from nothing is
then compared with plain BitBake on the same layer and cores. BitBake needs the locale en_US.UTF-8.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".demo"
TARGET = "demo-image"


def build_program() -> Path:
    """Builds the optimised bitzel program and returns its path."""
    command = ["cargo", "build", "--release", "--package", "bitzel", "--message-format", "json"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    programs = [
        message["executable"]
        for message in map(json.loads, output.splitlines())
        if message.get("executable") and message["target"]["name"] == "bitzel"
    ]
    return Path(programs[-1])


class Client:
    """A client with its own build directory, home and cache below one directory."""

    def __init__(self, program: Path, directory: Path) -> None:
        self.program = program
        self.build = directory / "build"
        self.environment = {
            **os.environ,
            "HOME": str(directory / "home"),
            "XDG_CACHE_HOME": str(directory / "cache"),
        }
        shutil.copytree(DEMO / "build" / "conf", self.build / "conf")
        (directory / "home").mkdir()

    def run(self, *arguments: str, runs_nothing: bool = False) -> float:
        """Builds the target; returns the time in seconds."""
        events = self.build.parent / "events.jsonl"
        command = [
            str(self.program),
            "build",
            "--build-dir",
            str(self.build),
            "--bitbake",
            str(DEMO / "bitbake"),
            "--events",
            str(events),
            *arguments,
            TARGET,
        ]
        started = time.monotonic()
        subprocess.run(command, env=self.environment, stdout=subprocess.DEVNULL, check=True)
        seconds = time.monotonic() - started
        lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
        summary = next(line for line in reversed(lines) if line["event"] == "summary")
        if (summary["tasks_run"] == 0) != runs_nothing:
            raise SystemExit(f"{summary['tasks_run']} tasks ran; this is not the build to measure")
        return seconds

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Serves this client's store and yields its URL."""
        command = [str(self.program), "serve", "--listen", "127.0.0.1:0"]
        with subprocess.Popen(
            command, env=self.environment, stdout=subprocess.PIPE, text=True, cwd=self.build
        ) as server:
            try:
                for line in server.stdout or ():
                    if match := re.search(r"127\.0\.0\.1:\d+", line):
                        yield f"grpc://{match[0]}"
                        break
                else:
                    raise SystemExit("bitzel serve ended without printing its address")
            finally:
                server.send_signal(signal.SIGTERM)


def plain_bitbake(checkout: Path, directory: Path) -> float:
    """Builds the target with BitBake alone; returns the time in seconds."""
    shutil.copytree(DEMO / "build" / "conf", directory / "build" / "conf")
    environment = {**os.environ, "LANG": "en_US.UTF-8", "BB_SERVER_TIMEOUT": "0"}
    started = time.monotonic()
    subprocess.run(
        [str(checkout / "bin" / "bitbake"), TARGET],
        cwd=directory / "build",
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.monotonic() - started


def report(name: str, value: float, reference: str = "", reference_value: float | None = None) -> None:
    ratio = None if reference_value is None else value / reference_value
    result = {
        "name": name,
        "value": round(value, 3),
        "unit": "s",
        "reference": reference,
        "reference_value": reference_value and round(reference_value, 3),
        "ratio": ratio and round(ratio, 3),
    }
    print(json.dumps(result), flush=True)


def main() -> int:
    program = build_program()
    with tempfile.TemporaryDirectory(prefix="bitzel-bench-") as name:
        top = Path(name)
        for client in ("first", "second", "plain"):
            (top / client).mkdir()
        checkout = os.environ.get("BITBAKE_CHECKOUT")
        plain = plain_bitbake(Path(checkout), top / "plain") if checkout else None
        first = Client(program, top / "first")
        cold = first.run()
        report("demo build from nothing", cold, "plain BitBake" if checkout else "", plain)
        report("demo build, nothing changed", first.run(runs_nothing=True), "demo build from nothing", cold)
        second = Client(program, top / "second")
        with first.serve() as url:
            output = str(top / "second" / "output")
            warm = second.run("--remote", url, "--output", output, runs_nothing=True)
        report("demo build, wiped client, filled store", warm, "demo build from nothing", cold)
    return 0


if __name__ == "__main__":
    sys.exit(main())
