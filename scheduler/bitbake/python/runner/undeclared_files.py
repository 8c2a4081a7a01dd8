# SPDX-License-Identifier: GPL-2.0-only
"""New files that a task leaves in shared directories without declaring them.

OE's do_rootfs writes manifests to deploy/licenses, and classes write reports next to the images: plain BitBake leaves
them there. They are outputs of the task too, collected in a tree of their own that has the layout of /work. Later tasks
of the same recipe find them in place, and so does every user of the task's published results.

Only new files are collected. A changed or deleted input stays as it is, and the worker reports it by name.

Tasks of several recipes may append to one file: OE's cve-check has an index of all reports in LOG_DIR. Each task
creates the file anew, since it does not see those of the others, so the text that it appended is kept by itself as
well, under a name that no other task uses. build_events.py joins these texts for the handlers of the end of the build.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path("/work")
COLLECTED = ROOT / "bitzel/beside"
SHARED = ROOT / "build"
# Source trees of externalsrc (host/describe_build.py). Only recipes that build from one can write there.
EXTERNAL_SOURCES = ROOT / "external"

# Directory below SHARED with texts that tasks appended: PATH/RECIPE:TASK, PATH relative to SHARED.
APPENDED_TEXTS = "bitzel-appended"

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


class AppendedFiles:
    """Files that Python code of the task opened to append, with their sizes before.

    Files to which a shell function appends are not noticed: the shell does not tell.
    """

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}

    def watch(self) -> None:
        """Begins to notice files, until the process ends."""
        sys.addaudithook(self.notice)

    def notice(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Audit hook of Python. Raises nothing: an error here would fail the call of the task."""
        if event != "open":
            return
        name, _, flags = arguments
        if not isinstance(name, str) or not isinstance(flags, int) or not flags & os.O_APPEND:
            return
        try:
            path = os.path.abspath(name)
            size = os.stat(path).st_size if os.path.exists(path) else 0
        except (OSError, ValueError):
            return
        self.sizes.setdefault(path, size)

    def appended_text(self, path: Path) -> bytes:
        """The text that the task appended to a file; empty if it did not append."""
        size = self.sizes.get(str(path))
        if size is None or path.is_symlink() or not path.is_file():
            return b""
        return path.read_bytes()[size:]


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
        self._text_name = f"{task['package_name']}:{task['task']}"
        self.appended = AppendedFiles()
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
                self._keep_appended_text(path)
                target = COLLECTED / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.rename(target)
            elif not any(path.iterdir()):
                path.rmdir()

    def _keep_appended_text(self, path: Path) -> None:
        text = self.appended.appended_text(path)
        if text and path.is_relative_to(SHARED):
            directory = COLLECTED / SHARED.relative_to(ROOT) / APPENDED_TEXTS / path.relative_to(SHARED)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / self._text_name).write_bytes(text)
