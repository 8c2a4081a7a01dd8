# SPDX-License-Identifier: GPL-2.0-only
"""Owners, devices, hard links and attributes across sandboxes, each with its own database of pseudo.

Needs the program `pseudo` (Debian: apt install pseudo).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "runner"))

import fakeroot

RUNNER = Path(__file__).parent.parent / "runner"

# Program that does the runner's work around a fakeroot task, with `action` as the task.
PROGRAM = """
import json, os, stat, sys
from pathlib import Path
sys.path.insert(0, {runner!r})
import fakeroot
fakeroot.ROOT = Path({root!r})
fakeroot.LOGS = Path({root!r}, "logs")
task = json.loads(Path({root!r}, "task.json").read_text())
if not fakeroot.is_inside():
    sys.exit(fakeroot.run_inside(task))
fakeroot.apply_ownership(task)
image = Path({root!r}, "work/image")
{action}
fakeroot.write_ownership(task)
"""

CREATE = """
image.mkdir()
for name in ("program", "plain"):
    (image / name).write_text(name)
os.chown(image / "program", 12, 34)
os.chmod(image / "program", 0o4755)
os.mknod(image / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
os.chmod(image / "null", 0o666)
os.symlink("program", image / "link")
os.lchown(image / "link", 12, 34)
"""

LIST = """
for path in sorted(image.iterdir()):
    status = path.lstat()
    print(path.name, oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev)
"""

EXPECTED = [
    "link 0o120777 12 34 0",
    "null 0o20666 0 0 259",
    "plain 0o100644 0 0 0",
    "program 0o104755 12 34 0",
]


class Tasks(unittest.TestCase):
    """A work directory and tasks that run in it under pseudo."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name).resolve()
        self.work = self.root / "work"
        self.image = self.work / "image"
        self.work.mkdir()
        state = self.work / "pseudo"
        self.task = {
            "package_name": "demo",
            "task": "do_install",
            "work_directory": "work",
            "fakeroot_command": "pseudo",
            "fakeroot_directories": str(state),
            "fakeroot_base_environment": "",
            "fakeroot_environment": f"PSEUDO_PREFIX=/usr PSEUDO_LOCALSTATEDIR={state}",
        }

    def start(self, action: str) -> subprocess.CompletedProcess[str]:
        (self.root / "task.json").write_text(json.dumps(self.task), encoding="utf-8")
        program = self.root / "program.py"
        program.write_text(
            PROGRAM.format(runner=str(RUNNER), root=str(self.root), action=action), encoding="utf-8"
        )
        return subprocess.run(
            [sys.executable, "-B", str(program)], capture_output=True, text=True, check=False
        )

    def run_task(self, action: str) -> list[str]:
        result = self.start(action)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.splitlines()

    def sidecar(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.work / "bitzel-ownership.json").read_bytes())
        return document


class Ownership(Tasks):
    def test_a_second_task_sees_owners_and_devices(self) -> None:
        self.assertEqual(self.run_task(CREATE + LIST), EXPECTED)
        self.assertFalse((self.root / "work/pseudo").exists(), "the database stays behind")
        self.assertEqual(self.run_task(LIST), EXPECTED)

    def test_no_sidecar_without_owners(self) -> None:
        self.run_task("")
        self.assertEqual(list((self.root / "work").iterdir()), [])

    def test_a_missing_fakeroot_command_is_named(self) -> None:
        self.task["fakeroot_command"] = "/nonexistent/pseudo"
        result = self.start("")
        self.assertEqual(result.returncode, 1)
        self.assertIn("demo:do_install", result.stderr)
        self.assertIn("/nonexistent/pseudo", result.stderr)

    def test_keeps_the_log_of_an_aborted_task(self) -> None:
        result = self.start("""
image.mkdir()
(image / "file").touch()
os.chown(image / "file", 1, 1)
sys.exit(3)
""")
        self.assertEqual(result.returncode, 3)
        self.assertIn("pid", (self.root / "logs/pseudo.log").read_text(encoding="utf-8"))
        self.assertFalse((self.work / "pseudo").exists())


class Links(Tasks):
    def test_equal_files_get_their_own_inodes(self) -> None:
        self.run_task("""
image.mkdir()
for name in ("one", "two"):
    (image / name).write_text("same")
    os.utime(image / name, (1, 1))
os.chown(image / "one", 12, 34)
os.utime(image, (5, 5))
""")
        # As a worker creates equal files.
        (self.image / "two").unlink()
        (self.image / "two").hardlink_to(self.image / "one")
        os.utime(self.image, (5, 5))
        found = self.run_task("""
for name in ("one", "two"):
    status = (image / name).stat()
    print(name, status.st_uid, status.st_nlink, status.st_mtime)
print(image.stat().st_mtime)
os.chown(image / "two", 56, 78)
""")
        self.assertEqual(found, ["one 12 1 1.0", "two 0 1 1.0", "5.0"])
        owners = self.sidecar()["owners"]
        self.assertEqual([owners[f"image/{name}"][1:3] for name in ("one", "two")], [[12, 34], [56, 78]])

    def test_equal_files_in_a_read_only_directory(self) -> None:
        self.image.mkdir()
        name = "x" * 255
        (self.image / "one").write_text("same", encoding="utf-8")
        (self.image / name).hardlink_to(self.image / "one")
        self.image.chmod(0o555)
        self.assertEqual(
            self.run_task("print([path.stat().st_nlink for path in image.iterdir()])"), ["[1, 1]"]
        )
        self.assertEqual(self.image.stat().st_mode & 0o777, 0o555)

    def test_the_next_task_sees_hard_links(self) -> None:
        self.run_task("""
image.mkdir()
(image / "first").write_text("same")
os.link(image / "first", image / "second")
os.chown(image / "first", 12, 34)
""")
        self.assertEqual(self.sidecar()["links"], [["image/first", "image/second"]])
        # A Directory message has two separate files.
        (self.image / "second").unlink()
        (self.image / "second").write_text("same", encoding="utf-8")
        found = self.run_task("""
first, second = (image / "first").stat(), (image / "second").stat()
print(first.st_ino == second.st_ino, second.st_uid, second.st_nlink)
""")
        self.assertEqual(found, ["True 12 2"])

    def test_a_replaced_link_stays_separate(self) -> None:
        self.run_task("""
image.mkdir()
(image / "first").write_text("same")
os.link(image / "first", image / "second")
""")
        (self.image / "second").unlink()
        (self.image / "second").write_text("other", encoding="utf-8")
        found = self.run_task('print((image / "first").read_text(), (image / "second").read_text())')
        self.assertEqual(found, ["same other"])
        self.assertEqual((self.image / "second").stat().st_nlink, 1)


class Attributes(Tasks):
    def test_the_next_task_sees_attributes(self) -> None:
        self.run_task("""
image.mkdir()
(image / "file").touch()
os.setxattr(image / "file", "user.colour", b"red\\xff")
os.setxattr(image / "file", "security.capability", b"\\x01\\x00\\x00\\x02" + bytes(16))
""")
        # A copy of the tree by its Directory messages has no attributes.
        (self.image / "file").unlink()
        (self.image / "file").touch()
        found = self.run_task("""
print(os.getxattr(image / "file", "user.colour"), os.getxattr(image / "file", "security.capability")[:4])
""")
        self.assertEqual(found, ["b'red\\xff' b'\\x01\\x00\\x00\\x02'"])


class TrackedPaths(Tasks):
    """Selection of the directories that pseudo tracks, by prefixes of strings."""

    NAMES = ("ignored", "package", "packages-split")

    def owned(self, setting: str) -> set[str]:
        self.task["fakeroot_environment"] += f" {setting}"
        self.run_task(f"""
for name in {self.NAMES}:
    Path({str(self.work)!r}, name).mkdir()
    os.chown(Path({str(self.work)!r}, name), 12, 34)
""")
        return {name for name, (_, uid, _, _) in self.sidecar()["owners"].items() if uid == 12}

    def test_skips_ignored_paths(self) -> None:
        setting = f"PSEUDO_IGNORE_PATHS=/nonexistent,{self.work}/ignored"
        self.assertEqual(self.owned(setting), {"package", "packages-split"})

    def test_an_included_prefix_matches_longer_names(self) -> None:
        setting = f"PSEUDO_INCLUDE_PATHS=/proc,{self.work}/package PSEUDO_IGNORE_PATHS={self.work}"
        self.task["fakeroot_environment"] = setting
        for name in self.NAMES:
            (self.work / name).mkdir()
        # Debian's pseudo does not have this setting yet, so only the runner is tested.
        with mock.patch.object(fakeroot, "ROOT", self.root):
            tracked = {path.name for path in fakeroot._tracked(self.task)}
        self.assertEqual(tracked, {"package", "packages-split"})


if __name__ == "__main__":
    unittest.main()
