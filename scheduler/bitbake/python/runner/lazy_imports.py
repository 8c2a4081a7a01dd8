# SPDX-License-Identifier: GPL-2.0-only
"""Modules whose import waits for their first use.

`import bb` imports all fetchers, and with them HTTP clients and HTML parsers, which takes longer than most tasks.
What is listed here is imported by BitBake at top level and used by few tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

LAZY = {
    "bb.fetch2",
    "bb.monitordisk",
    "bb.pysh.pyshlex",
    "bb.pysh.pyshyacc",
    "bb.runqueue",
    "ctypes",
    "inspect",
    "logging.config",
    "multiprocessing.reduction",
}


class LazyFinder:
    """Finds modules as the normal path finder does; those in `names` are executed at their first use."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.names:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


FINDER = LazyFinder(LAZY)


def install() -> None:
    sys.meta_path.insert(0, FINDER)
