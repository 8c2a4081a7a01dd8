# SPDX-License-Identifier: GPL-2.0-only
"""Content of a task's tree after the clean-up."""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "runner"))

import cleanup
import fakeroot
import special_files
import undeclared_files
from data_store_stub import Variables

TASK = {
    "package_name": "image",
    "task": "do_x",
    "log_directory": "",
    "lockfiles": [],
    "work_directory": "work",
    "private_directories": [],
    "published_paths": [],
    "fakeroot_directories": "",
}


class CleanupTestCase(unittest.TestCase):
    """A tree with the layout of /work, and a task in it with a data store."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        self.root = Path(directory.name).resolve()
        (self.root / "work").mkdir()
        self.variables = Variables(COMPONENTS_DIR=str(self.root / "components"))
        for module in (cleanup, undeclared_files, special_files):
            self.replace(module, "ROOT", self.root)
        self.replace(cleanup, "LOGS", self.root / "logs")
        self.replace(undeclared_files, "COLLECTED", self.root / "bitzel/beside")
        self.replace(undeclared_files, "SHARED", self.root / "build")
        self.downloads: set[Path] = set()
        self.shared_directories = undeclared_files.SharedDirectories(self.variables, TASK)

    def replace(self, target: Any, name: str, value: Any) -> None:
        patch = mock.patch.object(target, name, value)
        patch.start()
        self.addCleanup(patch.stop)

    def clean_up(self) -> None:
        cleanup.clean_up(self.variables, TASK, [], {}, self.shared_directories, self.downloads)


class Downloads(CleanupTestCase):
    def test_only_the_task_that_publishes_them_leaves_new_ones(self) -> None:
        directory = self.root / "downloads"
        (directory / "npm2").mkdir(parents=True)
        (directory / "old").touch()
        self.variables["DL_DIR"] = str(directory)
        before = cleanup.downloads(self.variables)
        (directory / "npm2/new.resolved").touch()
        publisher = {**TASK, "published_paths": ["downloads"]}
        cleanup.remove_new_downloads(self.variables, publisher, before)
        self.assertTrue((directory / "npm2/new.resolved").exists())
        cleanup.remove_new_downloads(self.variables, TASK, before)
        self.assertEqual(cleanup.downloads(self.variables), {directory / "old"})


class SharedManifests(CleanupTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.shared = self.root / "components/manifests/tool-native.1234"
        self.staged = self.root / "work/recipe-sysroot-native/installeddeps/tool-native.1234"
        for path in (self.shared, self.staged):
            path.parent.mkdir(parents=True)
        self.shared.write_text("usr/bin/tool\n", encoding="utf-8")
        self.staged.hardlink_to(self.shared)

    def test_keeps_only_a_manifests_link_in_the_sysroot(self) -> None:
        self.variables["extend_recipe_sysroot"] = "    pass\n"
        self.clean_up()
        self.assertFalse(self.shared.parent.exists())
        self.assertEqual(self.staged.read_text(encoding="utf-8"), "usr/bin/tool\n")

    def test_keeps_manifests_of_other_metadata(self) -> None:
        self.clean_up()
        self.assertTrue(self.shared.exists())


class RemainingFiles(CleanupTestCase):
    def test_removes_noise_and_collects_other_new_files(self) -> None:
        self.variables["STAMPS_DIR"] = str(self.root / "build/tmp/stamps")
        for name in ("stamps/stamp", "deploy/manifest"):
            path = self.root / "build/tmp" / name
            path.parent.mkdir(parents=True)
            path.touch()
        self.clean_up()
        found = [path for path in self.root.rglob("*") if path.is_file()]
        self.assertEqual(found, [self.root / "bitzel/beside/build/tmp/deploy/manifest"])

    def test_extracts_special_files(self) -> None:
        os.mkfifo(self.root / "work/pipe")
        self.clean_up()
        self.assertEqual([path.name for path in (self.root / "work").iterdir()], [special_files.SIDECAR])

    def test_removes_the_fakeroot_directory_outside_fakeroot(self) -> None:
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
