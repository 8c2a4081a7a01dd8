# SPDX-License-Identifier: GPL-2.0-only
"""Functions of the metadata that a task runs."""

from __future__ import annotations

import re
from typing import Any

import bb.codeparser
from metadata_values import words

# Function of OE's terminal.bbclass.
TERMINAL_FUNCTION = "oe_terminal"
EXECUTED_FUNCTION = re.compile(r"""exec_func\(\s*['"]([\w-]+)['"]""")


def task_functions(data: Any, task: str) -> list[str]:
    """Names of the functions that a task runs, as far as the code has them as literals."""
    todo = [
        task,
        *words(data.getVarFlag(task, "prefuncs")),
        *words(data.getVarFlag(task, "postfuncs")),
    ]
    seen: list[str] = []
    while todo:
        function = todo.pop(0)
        if function not in seen:
            seen.append(function)
            todo += EXECUTED_FUNCTION.findall(data.getVar(function, False) or "")
    return seen


def runs_function(data: Any, task: str, function: str) -> bool:
    """True if a task runs a function."""
    return function in task_functions(data, task)


def code_dependencies(data: Any, cache: Any, key: str, task: str) -> set[str]:
    """Names of the functions and variables that the task's code uses, as BitBake's signatures have them."""
    dependencies = cache.siggen_taskdeps.get(key, {}).get(task) if hasattr(cache, "siggen_taskdeps") else None
    return {*task_functions(data, task), *(dependencies or [])}


def opens_terminal(data: Any, cache: Any, key: str, task: str) -> bool:
    """True if the task opens a terminal for the user: its code calls OE's oe_terminal, directly or not.

    Such tasks run whenever they are asked for. A task with a stamp may name the function for the case of an error only
    (do_patch with PATCHRESOLVE = "user").
    """
    nostamp = task in cache.task_deps[key].get("nostamp", {})
    return nostamp and TERMINAL_FUNCTION in code_dependencies(data, cache, key, task)


def reads_dependency_data(data: Any, cache: Any, key: str, task: str) -> bool:
    """True if code of the task reads BB_TASKDEPDATA, directly or through modules of the layers."""
    for name in code_dependencies(data, cache, key, task):
        entry = bb.codeparser.modulecode_deps.get(name)
        if entry is not None:
            if "BB_TASKDEPDATA" in entry[0]:
                return True
        elif data.getVarFlag(name, "func", False) and "BB_TASKDEPDATA" in (data.getVar(name, False) or ""):
            return True
    return False
