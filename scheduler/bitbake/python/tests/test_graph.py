# SPDX-License-Identifier: GPL-2.0-only
"""Conversion of single values of the metadata for the graph.

Needs BitBake's library: BITZEL_TEST_BITBAKE names the directory that holds the package bb.
"""

from __future__ import annotations

import os
import sys
import unittest
from pathlib import Path

DIRECTORY = Path(__file__).parent.parent
sys.path[:0] = [str(DIRECTORY / name) for name in ("runner", "exporter")]
sys.path.insert(0, os.environ["BITZEL_TEST_BITBAKE"])

import bb  # noqa: E402
import bb.data  # noqa: E402
import graph  # noqa: E402
import metadata_values  # noqa: E402
import sources  # noqa: E402


class FakerootDirectories(unittest.TestCase):
    def test_includes_every_parent_of_a_program(self) -> None:
        found = graph.enclosing_directories(["/work/build/tmp/components/tool/bin/tool --option", ""])
        expected = {"build/", "build/tmp/", "build/tmp/components/", "build/tmp/components/tool/"}
        self.assertEqual(found, {*expected, "build/tmp/components/tool/bin/"})

    def test_a_program_of_the_host_is_in_no_published_path(self) -> None:
        found = graph.enclosing_directories(["/usr/bin/pseudo"])
        self.assertFalse(any(path.startswith("build") for path in found), found)


class IsBelow(unittest.TestCase):
    def test_compares_whole_directory_names(self) -> None:
        for path, directory, expected in (
            ("/work/a/b", "/work/a", True),
            ("/work/a/", "/work/a", True),
            ("/work/ab", "/work/a", False),
            ("/work/a", None, False),
            ("/work/a", "", False),
        ):
            with self.subTest(path=path, directory=directory):
                self.assertEqual(metadata_values.is_below(path, directory), expected)


class Sources(unittest.TestCase):
    def test_lists_only_sources_with_a_download(self) -> None:
        data = bb.data.init()
        data.setVar("DL_DIR", "/work/downloads")
        data.setVar("FILESPATH", "/nonexistent")
        data.setVar("SRC_URI", "file://local https://example.org/tool-1.0.tar.gz")
        self.assertEqual(sources.sources(data), [{"download_name": "tool-1.0.tar.gz"}])


if __name__ == "__main__":
    unittest.main()
