# SPDX-License-Identifier: GPL-2.0-only
"""Files that earlier exports left: bitzel removes those that nobody used for long, by their modification times."""

from __future__ import annotations

import os
from pathlib import Path


def mark_used(path: Path) -> bool:
    """Marks a file as used now. False if it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
