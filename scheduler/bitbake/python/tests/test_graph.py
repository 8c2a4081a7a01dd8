# SPDX-License-Identifier: GPL-2.0-only
"""What the graph takes from single values of the metadata.

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

import graph  # noqa: E402
import recipes  # noqa: E402


class FakerootPlaces(unittest.TestCase):
    def test_every_directory_above_a_program_counts(self) -> None:
        found = graph.enclosing_directories(["/work/build/tmp/components/tool/bin/tool --option", ""])
        expected = {"build/", "build/tmp/", "build/tmp/components/", "build/tmp/components/tool/"}
        self.assertEqual(found, {*expected, "build/tmp/components/tool/bin/"})

    def test_a_program_of_the_host_is_in_no_published_place(self) -> None:
        found = graph.enclosing_directories(["/usr/bin/pseudo"])
        self.assertFalse(any(place.startswith("build") for place in found), found)


class Below(unittest.TestCase):
    def test_whole_names_of_directories_are_compared(self) -> None:
        for path, directory, expected in (
            ("/work/a/b", "/work/a", True),
            ("/work/a/", "/work/a", True),
            ("/work/ab", "/work/a", False),
            ("/work/a", None, False),
            ("/work/a", "", False),
        ):
            with self.subTest(path=path, directory=directory):
                self.assertEqual(recipes.is_below(path, directory), expected)


if __name__ == "__main__":
    unittest.main()
