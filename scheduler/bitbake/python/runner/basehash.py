# SPDX-License-Identifier: GPL-2.0-only
"""Basehash of one task, computed by BitBake's own functions."""

from __future__ import annotations

from typing import Any

import bb.data


def of_task(data: Any, task: str, recipe: str) -> str:
    """Basehash of `task`, from a copy of the recipe's data store with this task only.

    The dependencies of all other tasks are then not computed. `data` is not changed.
    """
    ignored = set((data.getVar("BB_BASEHASH_IGNORE_VARS") or "").split())
    one_task = data.createCopy()
    one_task.setVar("__BBTASKS", [task])
    tasks, dependencies, values = bb.data.generate_dependencies(one_task, ignored)
    _, hashes = bb.data.generate_dependency_hash(tasks, dependencies, values, ignored, recipe)
    found: str = hashes[f"{recipe}:{task}"]
    return found
