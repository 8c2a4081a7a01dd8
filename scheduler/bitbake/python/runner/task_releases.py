# SPDX-License-Identifier: GPL-2.0-only
"""Differences between BitBake's releases, as far as a data store and a task meet them.

Each function asks the library in use what it has; none compares version numbers. (The exporter's own differences are
in cooker_releases.py.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bb.codeparser


def filters(data: Any) -> dict[str, Any]:
    """Variable filters of a data store (bb.filter); empty where the library has none."""
    return dict(getattr(data, "filters", {}))


def set_filters(data: Any, values: dict[str, Any]) -> None:
    if hasattr(data, "filters"):
        data.filters = dict(values)
    elif values:
        raise ValueError("the snapshot has variable filters, which this BitBake does not know")


def encode_module_dependencies(entry: list[Any]) -> list[Any]:
    """JSON form of one entry of bb.codeparser.modulecode_deps, as long as the entry itself."""
    references, executed, variables, contains, code_hash, *visitor = entry
    return [
        sorted(references),
        sorted(executed),
        sorted(variables),
        {variable: sorted(values) for variable, values in contains.items()},
        code_hash,
        *(found is not None for found in visitor),
    ]


def define_module_dependencies(name: str, encoded: list[Any], visit: Callable[[str, Any], Any]) -> None:
    """Puts an entry of `encode_module_dependencies` back; `visit` stands for every visitor."""
    references, executed, variables, contains, code_hash, *visitor = encoded
    bb.codeparser.modulecode_deps[name] = [
        set(references),
        set(executed),
        set(variables),
        {variable: set(values) for variable, values in contains.items()},
        code_hash,
        *(visit if present else None for present in visitor),
    ]


def set_upstream_revisions(data: Any, revisions: dict[str, str]) -> None:
    """Makes the fetchers know what the parse found upstream: a task has no network to ask again."""
    if not revisions:
        return
    import bb.fetch2

    cache = getattr(bb.fetch2, "_revisions_cache", None)
    if cache is not None:
        for key, revision in revisions.items():
            cache.set_rev(key, revision)
    else:
        table = bb.persist_data.persist("BB_URI_HEADREVS", data)
        for key, revision in revisions.items():
            table[key] = revision
