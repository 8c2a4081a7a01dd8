# SPDX-License-Identifier: GPL-2.0-only
"""Files that a task leaves in shared places without declaring them.

OE's do_rootfs writes manifests to deploy/licenses, classes write reports beside the images: with BitBake they simply
lie there afterwards. They are outputs too, in a tree of their own that is laid out as /work is. Tasks of the same
recipe that come later find them in place, and so does who gets the task's published results.

Only new files count. A changed or deleted input stays where it is, and the worker names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path("/work")
PLACE = ROOT / "bitzel/beside"
SHARED = ROOT / "build"

# Directories below which nothing is shared, or which the worker watches alone, by the variables that name them.
NOT_SHARED_VARIABLES = ("BASE_WORKDIR", "COMPONENTS_DIR", "DL_DIR")


def _walk(top: Path, left_out: set[str]) -> Iterator[tuple[Path, bool]]:
    """All below `top`, each with whether it is a directory, what is in a directory before the directory itself."""
    try:
        entries = list(os.scandir(top))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.path in left_out:
            continue
        is_directory = entry.is_dir(follow_symlinks=False)
        if is_directory:
            yield from _walk(Path(entry.path), left_out)
        yield Path(entry.path), is_directory


class SharedPlaces:
    """Shared places of one task, compared before and after it."""

    def __init__(self, data: Any, task: dict[str, Any]) -> None:
        variables = (data.getVar(name) for name in NOT_SHARED_VARIABLES)
        own = [task["work_directory"], *task["private_directories"], *task["published_paths"]]
        temporary = data.getVar("TMPDIR") or str(ROOT / "build/tmp")
        self._left_out = {os.path.normpath(path) for path in variables if path}
        self._left_out |= {str(ROOT / path) for path in own if path}
        self._left_out |= {f"{temporary}/work-shared", str(ROOT / "build/conf")}
        self._before = {path for path, _ in _walk(SHARED, self._left_out)}
        self._put_in_place()

    def _put_in_place(self) -> None:
        """What earlier tasks of the recipe left; a published file at the same place wins."""
        for path, is_directory in list(_walk(PLACE, set())):
            target = ROOT / path.relative_to(PLACE)
            if is_directory:
                path.rmdir()
            elif os.path.lexists(target):
                path.unlink()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)

    def collect(self) -> None:
        """Moves what is new to the tree of its own."""
        for path, is_directory in list(_walk(SHARED, self._left_out)):
            if path in self._before:
                continue
            if not is_directory:
                target = PLACE / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            elif not any(path.iterdir()):
                path.rmdir()
