# SPDX-License-Identifier: GPL-2.0-only
"""Values of the metadata in the form that the graph has them."""

from __future__ import annotations

import os
from typing import Any

ROOT = "/work/"

Document = dict[str, Any]


def relative(path: str) -> str:
    """A path of the sandbox in the graph's form: relative to /work."""
    return os.path.normpath(path).removeprefix(ROOT)


def is_below(path: str, directory: str | None) -> bool:
    """True if `path` is `directory` or below it."""
    return bool(directory) and f"{os.path.normpath(path)}/".startswith(f"{os.path.normpath(directory)}/")


def words(value: Any) -> list[str]:
    """Words of a list variable; empty for an unset variable."""
    return str(value).split() if value else []
