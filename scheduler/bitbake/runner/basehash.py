# SPDX-License-Identifier: GPL-2.0-only
"""The basehash of one task, computed as BitBake does for all tasks of a recipe.

bb.data.generate_dependencies and generate_dependency_hash work on every task; here the same functions are asked for
what one task reaches.
"""

from __future__ import annotations

from typing import Any

import bb.codeparser
import bb.data
import bb.utils


def of_task(data: Any, task: str, recipe: str) -> str:
    ignored = set((data.getVar("BB_BASEHASH_IGNORE_VARS") or "").split())
    module_functions = set(bb.codeparser.modulecode_deps.keys())
    keys = {key for key in data if not key.startswith("__")} | module_functions
    shell_dependencies = {
        key
        for key in data.getVar("__exportlist", False) or []
        if bb.utils.to_boolean(data.getVarFlag(key, "export"))
        and not bb.utils.to_boolean(data.getVarFlag(key, "unexport"))
    }
    excluded_flags = (data.getVar("BB_SIGNATURE_EXCLUDE_FLAGS") or "").split()
    code_data = data.createCopy()
    for forced in (data.getVar("BB_HASH_CODEPARSER_VALS") or "").split():
        key, value = forced.split("=", 1)
        code_data.setVar(key, value)

    dependencies: dict[str, frozenset[str]] = {}
    values: dict[str, str | None] = {}
    todo = [task]
    while todo:
        key = todo.pop()
        if key in dependencies:
            continue
        dependencies[key], values[key] = bb.data.build_dependencies(
            key, keys, module_functions, shell_dependencies, excluded_flags, ignored, data, code_data
        )
        todo.extend(dependencies[key])

    _, hashes = bb.data.generate_dependency_hash([task], dependencies, values, ignored, recipe)
    found: str = hashes[f"{recipe}:{task}"]
    return found
