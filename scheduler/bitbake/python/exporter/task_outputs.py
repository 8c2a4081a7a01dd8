# SPDX-License-Identifier: GPL-2.0-only
"""Directories and files that the tasks of a recipe write: private ones and published ones."""

from __future__ import annotations

import os
from typing import Any

from metadata_values import relative, words


def other_private_directories(data: Any, tasks: list[str], work_directory: str) -> list[str]:
    """Private directories of the recipe's tasks outside WORKDIR, such as a shared work directory it unpacks to."""
    temporary = (data.getVar("TMPDIR") or "").rstrip("/") + "/"
    candidates: list[str] = []
    if "do_unpack" in tasks and not data.getVarFlag("do_unpack", "noexec"):
        candidates += [data.getVar(name) or "" for name in ("S", "B", "UNPACKDIR")]
    for task in tasks:
        if task == "do_rootfs" or data.getVarFlag(task, "noexec"):
            continue
        outputs = words(data.getVarFlag(task, "sstate-outputdirs")) + words(
            data.getVarFlag(task, "sstate-plaindirs")
        )
        candidates += [path for path in words(data.getVarFlag(task, "cleandirs")) if path not in outputs]
    found = {
        relative(path)
        for path in candidates
        if path.startswith(temporary)
        and work_directory
        and not (os.path.normpath(path) + "/").startswith(os.path.normpath(work_directory) + "/")
    }
    return sorted(path for path in found if not any(path.startswith(f"{other}/") for other in found))


def published_paths(
    data: Any, task: str, outputs: list[str], plain: list[str], has_fetch_code: bool
) -> list[str]:
    """Paths outside WORKDIR that a task writes for other tasks.

    `has_fetch_code`: do_fetch downloads files by code of its own.
    """
    work_directory = os.path.normpath(data.getVar("WORKDIR") or "/nonexistent") + "/"
    published = [path for path in outputs if path]
    published += [path for path in plain if not (os.path.normpath(path) + "/").startswith(work_directory)]
    if outputs or plain or task in words(data.getVar("SSTATETASKS")):
        manifest = sstate_manifest(data, task)
        if manifest:
            published.append(manifest)
    paths = [relative(path) for path in published]
    has_uris = any(not uri.startswith("file://") for uri in words(data.getVar("SRC_URI")))
    if task == "do_fetch" and (has_uris or has_fetch_code):
        # The whole directory: the sandbox's DL_DIR has only this recipe's downloads, in the form its fetchers need.
        paths.append(relative(data.getVar("DL_DIR") or "/work/downloads"))
    return sorted(set(paths))


def sstate_manifest(data: Any, task: str) -> str:
    """Path of the task's sstate manifest, computed as oe.sstatesig.sstate_get_manifest_filename does."""
    if not data.getVar("SSTATE_MANFILEPREFIX", False):
        return ""
    machine = data.getVarFlag(task, "stamp-extra-info")
    if machine:
        data = data.createCopy()
        data.setVar("SSTATE_MANMACH", machine)
    return data.expand("${SSTATE_MANFILEPREFIX}." + task[3:])
