# SPDX-License-Identifier: GPL-2.0-only
"""Sources of a recipe (SRC_URI) and their upstream revisions."""

from __future__ import annotations

import contextlib
from typing import Any

import bb.fetch2
import cooker_releases
from metadata_values import Document, words


def sources(data: Any) -> list[Document]:
    """Sources with a file below DL_DIR, in the order of SRC_URI, with the name that the fetcher uses there."""
    uris = words(data.getVar("SRC_URI"))
    if not uris:
        return []
    downloads = (data.getVar("DL_DIR") or "").rstrip("/") + "/"
    documents = []
    try:
        fetcher = bb.fetch2.Fetch(uris, data, localonly=False)
    except bb.fetch2.BBFetchException:
        # do_fetch reports the error with more context, and only if it runs.
        return []
    for uri in uris:
        source = fetcher.ud[uri]
        if source.type == "file":
            continue
        with contextlib.suppress(bb.fetch2.BBFetchException):
            source.setup_localpath(data)
        local = source.localpath or ""
        name = local.removeprefix(downloads) if local.startswith(downloads) else source.localfile or ""
        if name:
            documents.append({"download_name": name})
    return documents


def upstream_revisions(data: Any) -> dict[str, str]:
    """Upstream revisions that this parse found, by BitBake's own key (bb.fetch2.FetchMethod).

    Tasks have no network to ask again, and have to build the revision of their signature.
    """
    revisions: dict[str, str] = {}
    fetcher = bb.fetch2.Fetch(words(data.getVar("SRC_URI")), data, localonly=False)
    for source in fetcher.ud.values():
        revisions.update(cooker_releases.upstream_revisions(source, data))
    return revisions
