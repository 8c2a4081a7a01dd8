# SPDX-License-Identifier: GPL-2.0-only
"""Clean-up of a task's tree after the task, successful or not.

Logs move to where the Action declares them. Everything else that BitBake writes next to the task's results (stamps,
statistics, locks, its own caches) is removed: it would be an undeclared write, and its times, process ids and hashes
would make equal results look different.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import fakeroot
import special_files
from undeclared_files import SharedDirectories

ROOT = Path("/work")
LOGS = ROOT / "bitzel/log"
# Directory of statistics among the logs; scheduler/graph/src/output.rs has the same name.
STATISTICS = "buildstats"
# Lines of a failed task's log that are shown, counted from its end.
SHOWN_LOG_LINES = 60
PROCESS_ID = re.compile(r"\.\d+$")

# Variables that name directories without results of a task.
NOISE_VARIABLES = (
    "HOSTTOOLS_DIR",
    "STAMPS_DIR",
    "BUILDSTATS_BASE",
    "SSTATE_DIR",
    "PERSISTENT_DIR",
    "CACHE",
    "QA_LOGFILE",
)
# Files below WORKDIR that only record the signature for which the tree was made.
NOISE_IN_WORK_DIRECTORY = ("configure.sstate", "recipe-sysroot/sysroot.lock")

Identity = tuple[int, int, int]


def remove(path: Path) -> None:
    """Removes a file or a whole directory, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def inside(path: str | None) -> Path | None:
    """The normalised path if it is inside the sandbox's tree, else None."""
    if not path or not os.path.normpath(path).startswith(f"{ROOT}/"):
        return None
    return Path(os.path.normpath(path))


def identity(path: Path) -> Identity:
    """Inode, modification time and size: equal as long as nobody has changed the file."""
    status = path.lstat()
    return status.st_ino, status.st_mtime_ns, status.st_size


def staged_files(task: dict[str, Any]) -> dict[Path, Identity]:
    """Files of other tasks in directories that this task publishes too (deploy/licenses and others)."""
    if task["task"] == "do_fetch":
        # A source that was there before is an output of do_fetch.
        return {}
    return {
        path: identity(path)
        for published in task["published_paths"]
        for path in (ROOT / published).rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def downloads(data: Any) -> set[Path]:
    """All files in DL_DIR."""
    directory = inside(data.getVar("DL_DIR"))
    if directory is None or not directory.is_dir():
        return set()
    return {path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir()}


def remove_new_downloads(data: Any, task: dict[str, Any], before: set[Path]) -> None:
    """Removes new files in DL_DIR, unless the task publishes it.

    BitBake's npm fetcher writes a file there whenever a task looks at SRC_URI; do_fetch has published the same.
    """
    directory = inside(data.getVar("DL_DIR"))
    if directory is not None and str(directory.relative_to(ROOT)) not in task["published_paths"]:
        for path in downloads(data) - before:
            path.unlink()


def remove_staged(staged: dict[Path, Identity]) -> None:
    """Leaves only the task's own files in published directories, as its sstate manifest lists them."""
    directories = set()
    for path, before in staged.items():
        if (path.is_symlink() or path.exists()) and identity(path) == before:
            path.unlink()
            directories.add(path.parent)
    for directory in sorted(directories, reverse=True):
        if not any(directory.iterdir()):
            directory.rmdir()


def show_failure(task: dict[str, Any]) -> None:
    """Prints the end of the task's log to stderr, as BitBake's terminal interface shows it."""
    logs = sorted((ROOT / task["log_directory"]).glob(f"log.{task['task']}*.*"))
    for log in logs[-1:]:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        sys.stderr.write(f"ERROR: {task['package_name']}:{task['task']} failed; the end of its log:\n")
        sys.stderr.writelines(f"| {line}\n" for line in lines[-SHOWN_LOG_LINES:])


def keep_logs(task: dict[str, Any]) -> None:
    """Moves the task's logs to `LOGS`, without process ids in their names."""
    source = ROOT / task["log_directory"]
    LOGS.mkdir(parents=True, exist_ok=True)
    if not task["log_directory"] or not source.is_dir():
        return
    for entry in sorted(source.iterdir()):
        if entry.name != "log.task_order" and not entry.is_fifo() and not entry.is_symlink():
            shutil.move(entry, LOGS / PROCESS_ID.sub("", entry.name))
    shutil.rmtree(source)


def keep_statistics(data: Any) -> None:
    """Moves what OE's buildstats.bbclass wrote about the task to its logs, which the client collects."""
    base, build = inside(data.getVar("BUILDSTATS_BASE")), data.getVar("BUILDNAME")
    if base is not None and build and (base / build).is_dir():
        LOGS.mkdir(parents=True, exist_ok=True)
        shutil.move(base / build, LOGS / STATISTICS)


def clean_up(
    data: Any,
    task: dict[str, Any],
    build_files: list[Path],
    staged: dict[Path, Identity],
    shared: SharedDirectories,
    downloads_before: set[Path],
) -> None:
    """Leaves only the task's outputs and logs in the tree."""
    os.chdir(ROOT)
    remove_staged(staged)
    remove_new_downloads(data, task, downloads_before)
    keep_logs(task)
    keep_statistics(data)
    stamp = inside(data.getVar("STAMP"))
    noise = [inside(data.getVar(variable)) for variable in NOISE_VARIABLES]
    if not fakeroot.is_inside():
        # Under fakeroot pseudo still uses the directory; the outer process removes it (fakeroot.run_inside).
        noise.append(inside(data.getVar("PSEUDO_LOCALSTATEDIR")))
    noise += [ROOT / lockfile for lockfile in task["lockfiles"]]
    noise += build_files
    if stamp is not None:
        noise += stamp.parent.glob(f"{stamp.name}.*")
    work_directory = ROOT / task["work_directory"]
    if task["work_directory"]:
        noise += [work_directory / name for name in NOISE_IN_WORK_DIRECTORY]
    if data.getVar("extend_recipe_sysroot", False) is not None:
        # OE's staging.bbclass writes lists of staged files there and links them into the sysroot; only the links count.
        noise.append(inside(f"{data.getVar('COMPONENTS_DIR')}/manifests"))
    manifests = inside(data.getVar("SSTATE_MANIFESTS"))
    if manifests is not None and manifests.is_dir():
        noise += manifests.glob("index-*")
    for path in noise:
        if path is not None and path not in (ROOT, ROOT / "build", ROOT / "build/tmp"):
            remove(path)
    shared.collect()
    special_files.extract(task)
