# SPDX-License-Identifier: GPL-2.0-only
"""Differences between BitBake's releases in the fetchers, as the exporter uses them.

Each function tests the loaded library for a feature; none compares version numbers. The differences in data stores,
tasks and upstream revisions are in the runner's task_releases.py.
"""

from __future__ import annotations

from typing import Any

import task_releases


def upstream_revisions(source: Any, data: Any) -> dict[str, str]:
    """Upstream revisions of one source that the parse found, by BitBake's own key (bb.fetch2.FetchMethod)."""
    if not hasattr(source.method, "_latest_revision"):
        return {}
    names = getattr(source, "names", None) or [source.name]
    keys = [source.method.generate_revision_key(source, data, name) for name in names]
    return task_releases.upstream_revisions(data, keys)
