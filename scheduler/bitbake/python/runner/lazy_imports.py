# SPDX-License-Identifier: GPL-2.0-only
"""Import of modules at their first use.

`import bb` imports all fetchers, and with them HTTP clients and HTML parsers, which takes longer than most tasks.
BitBake imports the modules listed here at top level, and few tasks use them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

LAZY_MODULES = {
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
    """Path finder that delays the execution of the modules in `names` to their first use."""

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


FINDER = LazyFinder(LAZY_MODULES)


def install() -> None:
    """Makes `FINDER` the first finder of this process."""
    sys.meta_path.insert(0, FINDER)
