# SPDX-License-Identifier: GPL-2.0-only
"""Files that a task leaves beside its declared outputs, on their way to the next task."""

from __future__ import annotations

import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "runner"))

import beside

TASK = {
    "work_directory": "build/tmp/work/image",
    "private_directories": ["build/tmp/own"],
    "published_paths": ["build/tmp/deploy/image"],
}


class Variables(dict[str, str]):
    def getVar(self, name: str, _expand: bool = True) -> str | None:  # noqa: N802  (BitBake's name)
        return self.get(name)


class BesideTheOutputs(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name).resolve()
        self.build = self.root / "build"
        self.place = self.root / "bitzel/beside"
        for name, value in (("ROOT", self.root), ("PLACE", self.place), ("SHARED", self.build)):
            patch = mock.patch.object(beside, name, value)
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

    def before_a_task(self) -> beside.SharedPlaces:
        return beside.SharedPlaces(self.variables, TASK)

    def collected(self) -> set[str]:
        return {str(path.relative_to(self.place)) for path in self.place.rglob("*") if not path.is_dir()}

    def test_new_files_and_links_are_collected(self) -> None:
        places = self.before_a_task()
        manifest = self.write("build/tmp/deploy/licenses/x/manifest")
        (manifest.parent / "link").symlink_to("manifest")
        (self.build / "tmp/deploy/empty").mkdir()
        places.collect()
        prefix = "build/tmp/deploy/licenses/x"
        self.assertEqual(self.collected(), {f"{prefix}/manifest", f"{prefix}/link"})
        self.assertFalse((self.build / "tmp").exists(), "directories stay behind")

    def test_declared_and_private_places_are_left_alone(self) -> None:
        places = self.before_a_task()
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
        places.collect()
        self.assertEqual(self.collected(), set())

    def test_what_was_there_before_stays_there(self) -> None:
        path = self.write("build/tmp/deploy/other/file", "old")
        places = self.before_a_task()
        path.write_text("changed", encoding="utf-8")
        places.collect()
        self.assertEqual(self.collected(), set())
        self.assertEqual(path.read_text(encoding="utf-8"), "changed")

    def test_later_tasks_find_them_in_place_and_pass_them_on(self) -> None:
        self.write("bitzel/beside/build/tmp/deploy/licenses/manifest", "first\n")
        places = self.before_a_task()
        path = self.build / "tmp/deploy/licenses/manifest"
        with path.open("a", encoding="utf-8") as stream:
            stream.write("second\n")
        places.collect()
        self.assertEqual(self.collected(), {"build/tmp/deploy/licenses/manifest"})
        kept = self.place / "build/tmp/deploy/licenses/manifest"
        self.assertEqual(kept.read_text(encoding="utf-8"), "first\nsecond\n")

    def test_one_that_a_later_task_removes_is_gone(self) -> None:
        self.write("bitzel/beside/build/tmp/deploy/licenses/manifest")
        places = self.before_a_task()
        (self.build / "tmp/deploy/licenses/manifest").unlink()
        places.collect()
        self.assertEqual(self.collected(), set())

    def test_a_published_file_at_the_same_place_wins(self) -> None:
        self.write("bitzel/beside/build/tmp/deploy/manifest", "beside")
        path = self.write("build/tmp/deploy/manifest", "published")
        self.before_a_task().collect()
        self.assertEqual(path.read_text(encoding="utf-8"), "published")
        self.assertEqual(self.collected(), set())


if __name__ == "__main__":
    unittest.main()
