# SPDX-License-Identifier: GPL-2.0-only
"""The basehash of one task, computed by BitBake's own functions."""

from __future__ import annotations

from typing import Any

import bb.data


def of_task(data: Any, task: str, recipe: str) -> str:
    """Asks bb.data about a recipe that has this one task, which leaves out what the others depend on.

    `data` is not changed.
    """
    ignored = set((data.getVar("BB_BASEHASH_IGNORE_VARS") or "").split())
    one_task = data.createCopy()
    one_task.setVar("__BBTASKS", [task])
    tasks, dependencies, values = bb.data.generate_dependencies(one_task, ignored)
    _, hashes = bb.data.generate_dependency_hash(tasks, dependencies, values, ignored, recipe)
    found: str = hashes[f"{recipe}:{task}"]
    return found
