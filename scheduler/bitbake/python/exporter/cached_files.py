# SPDX-License-Identifier: GPL-2.0-only
"""Use marks on the files of earlier exports: bitzel removes files with old modification times."""

from __future__ import annotations

import os
from pathlib import Path


def mark_used(path: Path) -> bool:
    """Sets a file's modification time to now; returns False if there is no such file."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True
