# SPDX-License-Identifier: GPL-2.0-only
"""What stays of a task's tree when the runner has cleaned up."""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "runner"))

import aftermath
import beside
import fakeroot
import special_files

TASK = {
    "log_directory": "",
    "lockfiles": [],
    "work_directory": "work",
    "private_directories": [],
    "published_paths": [],
    "fakeroot_directories": "",
}


class Variables(dict[str, str]):
    def getVar(self, name: str, _expand: bool = True) -> str | None:  # noqa: N802  (BitBake's name)
        return self.get(name)


class Cleaning(unittest.TestCase):
    """A tree like /work, and a task in it whose data store has some variables."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        self.root = Path(directory.name).resolve()
        (self.root / "work").mkdir()
        self.variables = Variables(COMPONENTS_DIR=str(self.root / "components"))
        for module in (aftermath, beside, special_files):
            self.replace(module, "ROOT", self.root)
        self.replace(aftermath, "LOGS", self.root / "logs")
        self.replace(beside, "PLACE", self.root / "bitzel/beside")
        self.replace(beside, "SHARED", self.root / "build")
        self.places = beside.SharedPlaces(self.variables, TASK)

    def replace(self, target: Any, name: str, value: Any) -> None:
        patch = mock.patch.object(target, name, value)
        patch.start()
        self.addCleanup(patch.stop)

    def clean_up(self) -> None:
        aftermath.clean_up(self.variables, TASK, [], {}, self.places)


class SharedManifests(Cleaning):
    def setUp(self) -> None:
        super().setUp()
        self.shared = self.root / "components/manifests/tool-native.1234"
        self.staged = self.root / "work/recipe-sysroot-native/installeddeps/tool-native.1234"
        for path in (self.shared, self.staged):
            path.parent.mkdir(parents=True)
        self.shared.write_text("usr/bin/tool\n", encoding="utf-8")
        self.staged.hardlink_to(self.shared)

    def test_only_the_link_in_the_sysroot_stays_of_a_manifest(self) -> None:
        self.variables["extend_recipe_sysroot"] = "    pass\n"
        self.clean_up()
        self.assertFalse(self.shared.parent.exists())
        self.assertEqual(self.staged.read_text(encoding="utf-8"), "usr/bin/tool\n")

    def test_metadata_without_that_function_keeps_its_directory(self) -> None:
        self.clean_up()
        self.assertTrue(self.shared.exists())


class WhatStays(Cleaning):
    def test_noise_goes_and_other_new_files_are_kept_beside(self) -> None:
        self.variables["STAMPS_DIR"] = str(self.root / "build/tmp/stamps")
        for name in ("stamps/stamp", "deploy/manifest"):
            path = self.root / "build/tmp" / name
            path.parent.mkdir(parents=True)
            path.touch()
        self.clean_up()
        found = [path for path in self.root.rglob("*") if path.is_file()]
        self.assertEqual(found, [self.root / "bitzel/beside/build/tmp/deploy/manifest"])

    def test_special_files_are_taken_out(self) -> None:
        os.mkfifo(self.root / "work/pipe")
        self.clean_up()
        self.assertEqual([path.name for path in (self.root / "work").iterdir()], [special_files.SIDECAR])

    def test_the_fakeroot_programs_directory_goes_after_it(self) -> None:
        state = self.root / "work/pseudo"
        self.variables["PSEUDO_LOCALSTATEDIR"] = str(state)
        state.mkdir()
        self.replace(fakeroot, "REAL_OWNER", "1000:1000")
        self.clean_up()
        self.assertTrue(state.exists())
        self.replace(fakeroot, "REAL_OWNER", None)
        self.clean_up()
        self.assertFalse(state.exists())


if __name__ == "__main__":
    unittest.main()
