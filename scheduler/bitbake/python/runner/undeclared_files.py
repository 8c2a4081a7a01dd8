# SPDX-License-Identifier: GPL-2.0-only
"""New files that a task leaves in shared directories without declaring them.

OE's do_rootfs writes manifests to deploy/licenses, and classes write reports next to the images: plain BitBake leaves
them there. They are outputs of the task too, collected in a tree of their own that has the layout of /work. Later tasks
of the same recipe find them in place, and so does every user of the task's published results.

Only new files are collected. A changed or deleted input stays as it is, and the worker reports it by name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path("/work")
COLLECTED = ROOT / "bitzel/beside"
SHARED = ROOT / "build"
# Source trees of externalsrc (host/describe_build.py). Only recipes that build from one can write there.
EXTERNAL_SOURCES = ROOT / "external"

# Variables that name directories without undeclared outputs: private ones, and those that only the worker checks.
NOT_SHARED_VARIABLES = ("BASE_WORKDIR", "COMPONENTS_DIR", "DL_DIR")


def _walk(top: Path, excluded: set[str]) -> Iterator[tuple[Path, bool]]:
    """Yields every path below `top` and True if it is a directory; the content of a directory precedes it."""
    try:
        entries = list(os.scandir(top))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.path in excluded:
            continue
        is_directory = entry.is_dir(follow_symlinks=False)
        if is_directory:
            yield from _walk(Path(entry.path), excluded)
        yield Path(entry.path), is_directory


class SharedDirectories:
    """Listing of the shared directories of one task, taken before it runs and compared after it."""

    def __init__(self, data: Any, task: dict[str, Any]) -> None:
        variables = (data.getVar(name) for name in NOT_SHARED_VARIABLES)
        own = [task["work_directory"], *task["private_directories"], *task["published_paths"]]
        temporary = data.getVar("TMPDIR") or str(ROOT / "build/tmp")
        self._excluded = {os.path.normpath(path) for path in variables if path}
        self._excluded |= {str(ROOT / path) for path in own if path}
        self._excluded |= {f"{temporary}/work-shared", str(ROOT / "build/conf")}
        self._trees = [SHARED, EXTERNAL_SOURCES] if data.getVar("EXTERNALSRC") else [SHARED]
        self._before = {path for path, _ in self._walk_trees()}
        self._place_collected()

    def _walk_trees(self) -> Iterator[tuple[Path, bool]]:
        for tree in self._trees:
            yield from _walk(tree, self._excluded)

    def _place_collected(self) -> None:
        """Moves the files of earlier tasks of the recipe to their places; a published file there has precedence."""
        for path, is_directory in list(_walk(COLLECTED, set())):
            target = ROOT / path.relative_to(COLLECTED)
            if is_directory:
                path.rmdir()
            elif os.path.lexists(target):
                path.unlink()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)

    def collect(self) -> None:
        """Moves all new files to the tree of collected files."""
        for path, is_directory in list(self._walk_trees()):
            if path in self._before:
                continue
            if not is_directory:
                target = COLLECTED / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            elif not any(path.iterdir()):
                path.rmdir()
