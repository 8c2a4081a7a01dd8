# SPDX-License-Identifier: GPL-2.0-only
"""Source trees of OE's externalsrc.bbclass (devtool), at their paths in the sandbox.

The class puts the client's own path into S. No task of a farm has that path, and the signature would differ for
everybody who has the same tree elsewhere. So each recipe gets the path in the sandbox before its anonymous functions
read it.
"""

from __future__ import annotations

import os
from typing import Any

import bb.parse.ast

VARIABLE = "EXTERNALSRC"
BUILD_VARIABLE = "EXTERNALSRC_BUILD"
# Links from the source tree to the work directory, for people: the client has no work directory.
LINKS_VARIABLE = "EXTERNALSRC_SYMLINKS"


def install(sources: list[dict[str, str]]) -> None:
    """Makes all recipes that are parsed from now on use the sandbox's paths of `sources`."""
    if not sources:
        return
    paths = {source["path"]: f"/work/{source['sandbox_path']}" for source in sources}
    run_anonymous_functions = bb.parse.ast.runAnonFuncs

    def run(data: Any) -> None:
        replace_paths(data, paths)
        run_anonymous_functions(data)

    bb.parse.ast.runAnonFuncs = run


def replace_paths(data: Any, paths: dict[str, str]) -> None:
    """Replaces the client's paths. A build directory outside of the source tree is left to the class: below WORKDIR."""
    for variable in (VARIABLE, BUILD_VARIABLE):
        value = data.getVar(variable)
        if not value:
            continue
        replaced = sandbox_path(value, paths)
        names = [name for name in list(data) if name == variable or name.startswith(f"{variable}:")]
        for name in names:
            data.delVar(name)
        if replaced or variable == VARIABLE:
            data.setVar(variable, replaced or value)
        if replaced:
            data.setVar(LINKS_VARIABLE, "")


def sandbox_path(path: str, paths: dict[str, str]) -> str | None:
    """The path in the sandbox; None if it is in none of the source trees."""
    path = os.path.normpath(path)
    for tree, replacement in paths.items():
        if f"{path}/".startswith(f"{tree}/"):
            return replacement + path.removeprefix(tree)
    return None
