# SPDX-License-Identifier: GPL-2.0-only
"""Differences between BitBake's releases: stubs give the installed library the shape of each release.

Needs BitBake's library: BITZEL_TEST_BITBAKE names the directory that holds the package bb.
"""

from __future__ import annotations

import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

DIRECTORY = Path(__file__).parent.parent
sys.path[:0] = [str(DIRECTORY / name) for name in ("runner", "exporter")]
sys.path.insert(0, os.environ["BITZEL_TEST_BITBAKE"])

import bb  # noqa: E402
import bb.codeparser  # noqa: E402
import bb.fetch2  # noqa: E402
import cooker_releases  # noqa: E402
import task_releases  # noqa: E402
from data_store_stub import Variables  # noqa: E402


class RevisionsCache:
    """Stub of the cache that bb.fetch2 has since 2025."""

    def __init__(self, **known: str) -> None:
        self.known = known
        self.directory = ""

    def init_cache(self, directory: str) -> None:
        self.directory = directory

    def get_rev(self, key: str) -> str | None:
        return self.known.get(key)

    def set_rev(self, key: str, revision: str) -> None:
        self.known[key] = revision


class Releases(unittest.TestCase):
    def with_cache(self, cache: RevisionsCache) -> RevisionsCache:
        patch = mock.patch.object(bb.fetch2, "_revisions_cache", cache, create=True)
        patch.start()
        self.addCleanup(patch.stop)
        return cache

    def with_table(self, **known: str) -> dict[str, str]:
        """Gives bb.fetch2 the table of releases before 2025, which all processes share."""
        if hasattr(bb.fetch2, "_revisions_cache"):
            kept = bb.fetch2._revisions_cache
            del bb.fetch2._revisions_cache
            self.addCleanup(setattr, bb.fetch2, "_revisions_cache", kept)
        persist_data = types.SimpleNamespace(persist=lambda domain, _data: {"BB_URI_HEADREVS": known}[domain])
        patch = mock.patch.object(bb, "persist_data", persist_data, create=True)
        patch.start()
        self.addCleanup(patch.stop)
        return known


class Filters(unittest.TestCase):
    def test_sets_filters(self) -> None:
        data = types.SimpleNamespace(filters={"VAR": "suffix"})
        self.assertEqual(task_releases.filters(data), {"VAR": "suffix"})
        task_releases.set_filters(data, {"OTHER": "prefix"})
        self.assertEqual(data.filters, {"OTHER": "prefix"})

    def test_a_store_without_filters_has_none(self) -> None:
        data = types.SimpleNamespace()
        self.assertEqual(task_releases.filters(data), {})
        task_releases.set_filters(data, {})
        self.assertFalse(hasattr(data, "filters"))

    def test_a_store_without_filters_refuses_them(self) -> None:
        with self.assertRaises(ValueError):
            task_releases.set_filters(types.SimpleNamespace(), {"VAR": "suffix"})


class ModuleDependencies(unittest.TestCase):
    ENTRY = ({"b", "a"}, {"run"}, {"VAR"}, {"OVERRIDES": {"y", "x"}}, "hash")
    ENCODED = (["a", "b"], ["run"], ["VAR"], {"OVERRIDES": ["x", "y"]}, "hash")

    def round_trip(self, entry: list[Any], visit: Any) -> tuple[list[Any], list[Any]]:
        encoded = task_releases.encode_module_dependencies(entry)
        with mock.patch.dict(bb.codeparser.modulecode_deps):
            task_releases.define_module_dependencies("oe.x", encoded, visit)
            return encoded, bb.codeparser.modulecode_deps["oe.x"]

    def test_round_trip_of_an_entry_with_five_items(self) -> None:
        encoded, defined = self.round_trip([*self.ENTRY], print)
        self.assertEqual((encoded, defined), ([*self.ENCODED], [*self.ENTRY]))

    def test_round_trip_of_an_entry_with_a_visitor(self) -> None:
        for original, restored in ((len, print), (None, None)):
            encoded, defined = self.round_trip([*self.ENTRY, original], print)
            self.assertEqual(encoded, [*self.ENCODED, original is not None])
            self.assertEqual(defined, [*self.ENTRY, restored])


class SetUpstreamRevisions(Releases):
    def test_writes_to_the_cache(self) -> None:
        cache = self.with_cache(RevisionsCache())
        task_releases.set_upstream_revisions(Variables(), {"git:x": "1234"})
        self.assertEqual(cache.known, {"git:x": "1234"})

    def test_writes_to_the_table_without_a_cache(self) -> None:
        table = self.with_table()
        task_releases.set_upstream_revisions(Variables(), {"git:x": "1234"})
        self.assertEqual(table, {"git:x": "1234"})


class FindUpstreamRevisions(Releases):
    @staticmethod
    def source(**attributes: Any) -> Any:
        method = types.SimpleNamespace(
            _latest_revision=None, generate_revision_key=lambda _source, _data, name: f"git:{name}"
        )
        return types.SimpleNamespace(**{"method": method, "name": "default", **attributes})

    def test_reads_from_the_cache(self) -> None:
        cache = self.with_cache(RevisionsCache(**{"git:default": "1234"}))
        data = Variables(BB_CACHEDIR="/cache")
        task_releases.read_upstream_revisions(data)
        self.assertEqual(cache.directory, "/cache")
        self.assertEqual(cooker_releases.upstream_revisions(self.source(), data), {"git:default": "1234"})

    def test_reads_from_the_table_without_a_cache(self) -> None:
        self.with_table(**{"git:default": "1234"})
        task_releases.read_upstream_revisions(Variables())
        found = cooker_releases.upstream_revisions(self.source(), Variables())
        self.assertEqual(found, {"git:default": "1234"})

    def test_a_source_with_names_has_a_revision_for_each(self) -> None:
        self.with_cache(RevisionsCache(**{"git:one": "1", "git:two": "2"}))
        source = self.source(names=["one", "two", "unknown"])
        found = cooker_releases.upstream_revisions(source, Variables())
        self.assertEqual(found, {"git:one": "1", "git:two": "2"})

    def test_a_source_without_revisions_has_none(self) -> None:
        source = self.source(method=types.SimpleNamespace())
        self.assertEqual(cooker_releases.upstream_revisions(source, Variables()), {})


if __name__ == "__main__":
    unittest.main()
