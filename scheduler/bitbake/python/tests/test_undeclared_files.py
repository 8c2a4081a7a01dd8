# SPDX-License-Identifier: GPL-2.0-only
"""Collection of undeclared files of a task, and their transfer to the next task."""

from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "runner"))

import undeclared_files
from data_store_stub import Variables

TASK = {
    "package_name": "image",
    "task": "do_x",
    "work_directory": "build/tmp/work/image",
    "private_directories": ["build/tmp/own"],
    "published_paths": ["build/tmp/deploy/image"],
}


class UndeclaredFiles(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name).resolve()
        self.build = self.root / "build"
        self.collected_tree = self.root / "bitzel/beside"
        for name, value in (("ROOT", self.root), ("COLLECTED", self.collected_tree), ("SHARED", self.build)):
            patch = mock.patch.object(undeclared_files, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        self.variables = Variables(
            TMPDIR=str(self.build / "tmp"),
            BASE_WORKDIR=str(self.build / "tmp/work"),
            COMPONENTS_DIR=str(self.build / "tmp/sysroots-components"),
        )

    def write(self, name: str, text: str = "text") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def before_a_task(self) -> undeclared_files.SharedDirectories:
        return undeclared_files.SharedDirectories(self.variables, TASK)

    def collected(self) -> set[str]:
        return {
            str(path.relative_to(self.collected_tree))
            for path in self.collected_tree.rglob("*")
            if not path.is_dir()
        }

    def test_collects_new_files_and_links(self) -> None:
        shared = self.before_a_task()
        manifest = self.write("build/tmp/deploy/licenses/x/manifest")
        (manifest.parent / "link").symlink_to("manifest")
        (self.build / "tmp/deploy/empty").mkdir()
        shared.collect()
        prefix = "build/tmp/deploy/licenses/x"
        self.assertEqual(self.collected(), {f"{prefix}/manifest", f"{prefix}/link"})
        self.assertFalse((self.build / "tmp").exists(), "directories stay behind")

    def test_ignores_declared_and_private_directories(self) -> None:
        shared = self.before_a_task()
        for name in (
            "deploy/image/rootfs",
            "own/file",
            "sysroots-components/x/file",
            "work-shared/gcc/file",
            "work/image/file",
            "work/other/file",
        ):
            self.write(f"build/tmp/{name}")
        self.write("build/conf/local.conf")
        shared.collect()
        self.assertEqual(self.collected(), set())

    def test_leaves_changed_inputs_in_place(self) -> None:
        path = self.write("build/tmp/deploy/other/file", "old")
        shared = self.before_a_task()
        path.write_text("changed", encoding="utf-8")
        shared.collect()
        self.assertEqual(self.collected(), set())
        self.assertEqual(path.read_text(encoding="utf-8"), "changed")

    def test_later_tasks_find_the_files_in_place(self) -> None:
        self.write("bitzel/beside/build/tmp/deploy/licenses/manifest", "first\n")
        shared = self.before_a_task()
        path = self.build / "tmp/deploy/licenses/manifest"
        with path.open("a", encoding="utf-8") as stream:
            stream.write("second\n")
        shared.collect()
        self.assertEqual(self.collected(), {"build/tmp/deploy/licenses/manifest"})
        kept = self.collected_tree / "build/tmp/deploy/licenses/manifest"
        self.assertEqual(kept.read_text(encoding="utf-8"), "first\nsecond\n")

    def test_keeps_appended_text_by_itself(self) -> None:
        self.write("bitzel/beside/build/tmp/log/index", "of an earlier task\n")
        shared = self.before_a_task()
        shared.appended.watch()
        for line in ("first\n", "second\n"):
            with (self.build / "tmp/log/index").open("a+", encoding="utf-8") as stream:
                stream.write(line)
        self.write("build/tmp/log/report", "written")
        shared.collect()
        text = "build/bitzel-appended/tmp/log/index/image:do_x"
        self.assertEqual(self.collected(), {"build/tmp/log/index", "build/tmp/log/report", text})
        kept = self.collected_tree / text
        self.assertEqual(kept.read_text(encoding="utf-8"), "first\nsecond\n")
        shared = self.before_a_task()
        shared.collect()
        self.assertIn(text, self.collected(), "it is handed on to the next task of the recipe")

    def test_drops_a_file_that_a_later_task_removed(self) -> None:
        self.write("bitzel/beside/build/tmp/deploy/licenses/manifest")
        shared = self.before_a_task()
        (self.build / "tmp/deploy/licenses/manifest").unlink()
        shared.collect()
        self.assertEqual(self.collected(), set())

    def test_a_published_file_has_precedence(self) -> None:
        self.write("bitzel/beside/build/tmp/deploy/manifest", "beside")
        path = self.write("build/tmp/deploy/manifest", "published")
        self.before_a_task().collect()
        self.assertEqual(path.read_text(encoding="utf-8"), "published")
        self.assertEqual(self.collected(), set())


if __name__ == "__main__":
    unittest.main()
