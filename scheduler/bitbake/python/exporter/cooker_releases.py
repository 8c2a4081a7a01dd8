# SPDX-License-Identifier: GPL-2.0-only
"""Differences between BitBake's releases, as far as the exporter meets them.

Each function asks the library in use what it has; none compares version numbers. (Those of data stores and tasks are
in the runner's task_releases.py.)
"""

from __future__ import annotations

from typing import Any

import bb.fetch2


def read_upstream_revisions(data: Any) -> None:
    """Reads what the parser's processes asked upstream; asked again, it might be something newer.

    A library without this cache keeps the revisions in a database that all processes share.
    """
    cache = getattr(bb.fetch2, "_revisions_cache", None)
    if cache is not None:
        cache.init_cache(data.getVar("BB_CACHEDIR"))


def upstream_revisions(source: Any, data: Any) -> dict[str, str]:
    """Newest revisions that the parse found upstream of one source, by BitBake's own key (bb.fetch2.FetchMethod)."""
    if not hasattr(source.method, "_latest_revision"):
        return {}
    cache = getattr(bb.fetch2, "_revisions_cache", None)
    known = cache.get_rev if cache is not None else _table(data).get
    names = getattr(source, "names", None) or [source.name]
    keys = [source.method.generate_revision_key(source, data, name) for name in names]
    return {key: revision for key in keys if (revision := known(key)) is not None}


def _table(data: Any) -> dict[str, str]:
    return dict(bb.persist_data.persist("BB_URI_HEADREVS", data))
