# SPDX-License-Identifier: GPL-2.0-only
"""What stays of a task's tree when the runner has cleaned up."""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "runner"))

import aftermath

TASK = {"log_directory": "", "lockfiles": [], "work_directory": "work"}


class Variables(dict[str, str]):
    def getVar(self, name: str, _expand: bool = True) -> str | None:  # noqa: N802  (BitBake's name)
        return self.get(name)


class SharedManifests(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        self.root = Path(directory.name).resolve()
        self.shared = self.root / "components/manifests/tool-native.1234"
        self.staged = self.root / "work/recipe-sysroot-native/installeddeps/tool-native.1234"
        for path in (self.shared, self.staged):
            path.parent.mkdir(parents=True)
        self.shared.write_text("usr/bin/tool\n", encoding="utf-8")
        self.staged.hardlink_to(self.shared)
        self.variables = Variables(COMPONENTS_DIR=str(self.root / "components"))

    def clean_up(self) -> None:
        with (
            mock.patch.object(aftermath, "ROOT", self.root),
            mock.patch.object(aftermath, "LOGS", self.root / "logs"),
        ):
            aftermath.clean_up(self.variables, TASK, [], {})

    def test_only_the_link_in_the_sysroot_stays_of_a_manifest(self) -> None:
        self.variables["extend_recipe_sysroot"] = "    pass\n"
        self.clean_up()
        self.assertFalse(self.shared.parent.exists())
        self.assertEqual(self.staged.read_text(encoding="utf-8"), "usr/bin/tool\n")

    def test_metadata_without_that_function_keeps_its_directory(self) -> None:
        self.clean_up()
        self.assertTrue(self.shared.exists())


if __name__ == "__main__":
    unittest.main()
