# SPDX-License-Identifier: GPL-2.0-only
"""Sources of a recipe (SRC_URI) and their upstream revisions."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import Any

import bb.data_smart
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


def files_of_fetch_code(data: Any, dependencies: Iterable[str]) -> list[Document]:
    """Files below DL_DIR that code of do_fetch names by variables, as sources beside those of SRC_URI.

    OE's cve-update-nvd2-native downloads its database by itself; CVE_CHECK_DB_DLDIR_FILE has the path. `dependencies`
    are the names that the code uses.
    """
    downloads = os.path.normpath(data.getVar("DL_DIR") or "/nonexistent") + "/"
    lockfiles = words(data.expand(data.getVarFlag("do_fetch", "lockfiles", False) or ""))
    names = set()
    for name in dependencies:
        if data.getVarFlag(name, "func", False):
            continue
        try:
            value = data.getVar(name)
        except bb.data_smart.ExpansionError:
            # A variable that only another task can expand.
            continue
        path = os.path.normpath(value) if isinstance(value, str) else ""
        if (
            path.startswith(downloads)
            and "\n" not in path
            and not value.endswith("/")
            and value not in lockfiles
        ):
            names.add(path.removeprefix(downloads))
    return [{"download_name": name} for name in sorted(names)]


def upstream_revisions(data: Any) -> dict[str, str]:
    """Upstream revisions that this parse found, by BitBake's own key (bb.fetch2.FetchMethod).

    Tasks have no network to ask again, and have to build the revision of their signature.
    """
    revisions: dict[str, str] = {}
    fetcher = bb.fetch2.Fetch(words(data.getVar("SRC_URI")), data, localonly=False)
    for source in fetcher.ud.values():
        revisions.update(cooker_releases.upstream_revisions(source, data))
    return revisions
