# SPDX-License-Identifier: GPL-2.0-only
"""Differences between BitBake's releases in data stores, tasks and upstream revisions, for the runner and the exporter.

Each function tests the loaded library for a feature; none compares version numbers. The differences that only the
exporter meets are in its cooker_releases.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import bb.codeparser

# Name of the database table that holds upstream revisions in releases without a revisions cache.
REVISIONS_TABLE = "BB_URI_HEADREVS"


def filters(data: Any) -> dict[str, Any]:
    """Variable filters of a data store (bb.filter); empty if the library has none."""
    return dict(getattr(data, "filters", {}))


def set_filters(data: Any, values: dict[str, Any]) -> None:
    """Sets the variable filters of a data store."""
    if hasattr(data, "filters"):
        data.filters = dict(values)
    elif values:
        raise ValueError("the snapshot has variable filters, which this BitBake does not know")


def encode_module_dependencies(entry: list[Any]) -> list[Any]:
    """JSON form of one entry of bb.codeparser.modulecode_deps, with as many items as the entry itself."""
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
    """Restores an entry of `encode_module_dependencies`; `visit` takes the place of every visitor."""
    references, executed, variables, contains, code_hash, *visitor = encoded
    bb.codeparser.modulecode_deps[name] = [
        set(references),
        set(executed),
        set(variables),
        {variable: set(values) for variable, values in contains.items()},
        code_hash,
        *(visit if present else None for present in visitor),
    ]


def _revisions_cache() -> Any:
    """bb.fetch2's cache of upstream revisions, or None in releases that keep them in a database of all processes."""
    # Imported here: most tasks never load the fetchers (lazy_imports.py).
    import bb.fetch2

    return getattr(bb.fetch2, "_revisions_cache", None)


def _revisions_table(data: Any) -> Any:
    return bb.persist_data.persist(REVISIONS_TABLE, data)


def read_upstream_revisions(data: Any) -> None:
    """Loads the revisions that the parser's processes found upstream; another query might find newer ones."""
    cache = _revisions_cache()
    if cache is not None:
        cache.init_cache(data.getVar("BB_CACHEDIR"))


def upstream_revisions(data: Any, keys: Iterable[str]) -> dict[str, str]:
    """Known upstream revisions, by key; keys without a known revision are left out."""
    cache = _revisions_cache()
    find = cache.get_rev if cache is not None else dict(_revisions_table(data)).get
    return {key: revision for key in keys if (revision := find(key)) is not None}


def set_upstream_revisions(data: Any, revisions: dict[str, str]) -> None:
    """Gives the fetchers the revisions that the parse found upstream: a task has no network to ask again."""
    if not revisions:
        return
    cache = _revisions_cache()
    if cache is not None:
        for key, revision in revisions.items():
            cache.set_rev(key, revision)
    else:
        table = _revisions_table(data)
        for key, revision in revisions.items():
            table[key] = revision
