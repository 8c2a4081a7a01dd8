# SPDX-License-Identifier: GPL-2.0-only
"""Python modules of the layers (`addpylib`), for the runner to import them."""

from __future__ import annotations

import os
import sys
from typing import Any

import bb.codeparser
import bb.utils
import task_releases


def python_libraries() -> list[list[str]]:
    """The `addpylib` namespaces in the order of import: [directory, namespace, submodules to import]."""
    namespaces = []
    for name, module in bb.utils.get_context().items():
        imports = getattr(module, "BBIMPORTS", None)
        if imports is None:
            continue
        directory = os.path.dirname(os.path.dirname(module.__file__))
        namespaces.append([directory, name, *imports])
    return namespaces


def registering_modules() -> list[str]:
    """Names of the `addpylib` modules that register objects in bb at import: signature generators, filters.

    The import of all others can wait until a task uses them.
    """
    namespaces = tuple(f"{namespace}." for _, namespace, *_ in python_libraries())
    found = set()
    for name, module in list(sys.modules.items()):
        if name == "bb" or name.startswith("bb."):
            for value in list(vars(module).values()):
                members = list(value.values()) if isinstance(value, dict) else [value]
                owners = (getattr(member, "__module__", None) for member in members)
                found.update(owner for owner in owners if isinstance(owner, str))
    return sorted(name for name in found if name.startswith(namespaces))


def module_dependencies() -> dict[str, list[Any]]:
    """Dependencies that BitBake found in the code of the `addpylib` modules; they are part of the signatures."""
    return {
        name: task_releases.encode_module_dependencies(entry)
        for name, entry in bb.codeparser.modulecode_deps.items()
    }
