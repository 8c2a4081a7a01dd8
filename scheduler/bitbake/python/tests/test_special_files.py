# SPDX-License-Identifier: GPL-2.0-only
"""Extraction of files that no Directory message can represent, and their restoration before the next task."""

from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "runner"))

import special_files

TASK: dict[str, Any] = {
    "work_directory": "work",
    "private_directories": ["shared"],
    "fakeroot_directories": "",
}
# An old time, which a directory never gets from a change.
TIME = 1_000_000_000_123_456_789


class SpecialFiles(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name).resolve()
        self.work = os.fsencode(self.root / "work")
        os.mkdir(self.work)
        patch = mock.patch.object(special_files, "ROOT", self.root)
        patch.start()
        self.addCleanup(patch.stop)

    def make(self, name: bytes, text: str = "text") -> bytes:
        path = self.work + b"/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        return path

    def contents(self) -> dict[bytes, tuple[int, int, Any]]:
        """Mode, time and content of every path below the root, also outside of the work directory."""
        found = {}
        for directory, directories, files in os.walk(os.fsencode(self.root)):
            for name in directories + files:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                content: Any = None
                if stat.S_ISLNK(status.st_mode):
                    content = os.readlink(path)
                elif stat.S_ISREG(status.st_mode):
                    with open(path, "rb") as stream:
                        content = stream.read()
                modified = 0 if stat.S_ISLNK(status.st_mode) else status.st_mtime_ns
                found[path] = (status.st_mode, modified, content)
        return found

    def set_times(self) -> None:
        for path, (mode, _, _) in self.contents().items():
            if not stat.S_ISLNK(mode):
                os.utime(path, ns=(TIME, TIME))

    def assert_is_restored(self) -> None:
        """Asserts that extraction leaves only what a Directory message has, and that restoration is complete."""
        self.set_times()
        before = self.contents()
        special_files.extract(TASK)
        between = self.contents()
        self.assertIn(os.fsencode(self.root / "work" / special_files.SIDECAR), between)
        for path, (mode, _, content) in between.items():
            path.decode("utf-8")
            if stat.S_ISLNK(mode):
                content.decode("utf-8")
            else:
                self.assertTrue(stat.S_ISREG(mode) or stat.S_ISDIR(mode), path)
        special_files.restore(TASK)
        (self.root / "work" / special_files.SIDECAR).unlink()
        os.utime(self.work, ns=(TIME, TIME))
        self.assertEqual(self.contents(), before)

    def test_restores_a_pipe_with_its_mode_and_time(self) -> None:
        os.mkdir(self.work + b"/d")
        os.mkfifo(self.work + b"/d/pipe")
        os.chmod(self.work + b"/d/pipe", 0o640)
        self.assert_is_restored()

    def test_restores_a_name_that_is_not_utf8(self) -> None:
        self.make(b"caf\xe9")
        self.assert_is_restored()

    def test_restores_a_directory_name_that_is_not_utf8(self) -> None:
        self.make(b"d\xe9p\xf4t/d\xe9/fil\xe9")
        self.make(b"d\xe9p\xf4t/plain")
        os.mkfifo(self.work + b"/d\xe9p\xf4t/pip\xe9")
        os.symlink(b"\xff", self.work + b"/d\xe9p\xf4t/lin\xe9")
        os.symlink("plain", self.work + b"/d\xe9p\xf4t/lien")
        self.assert_is_restored()

    def test_restores_a_link_target_that_is_not_utf8(self) -> None:
        os.symlink(b"caf\xe9", self.work + b"/link")
        self.assert_is_restored()

    def test_restores_in_a_read_only_directory(self) -> None:
        self.make(b"d/caf\xe9")
        os.mkfifo(self.work + b"/d/pipe")
        os.chmod(self.work + b"/d", 0o555)
        self.assert_is_restored()

    def test_restores_in_other_private_directories(self) -> None:
        shared = os.fsencode(self.root / "shared")
        os.mkdir(shared)
        os.mkfifo(shared + b"/pipe")
        self.assert_is_restored()

    def test_drops_a_socket_with_a_message(self) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.work + b"/socket")
        with contextlib.redirect_stderr(io.StringIO()) as messages:
            special_files.extract(TASK)
        self.assertIn("work/socket", messages.getvalue())
        self.assertEqual(os.listdir(self.work), [])

    def test_keeps_the_fakeroot_programs_socket(self) -> None:
        os.mkdir(self.work + b"/pseudo")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.work + b"/pseudo/socket")
        special_files.extract({**TASK, "fakeroot_directories": f"{self.root}/work/pseudo/"})
        self.assertEqual(os.listdir(self.work + b"/pseudo"), [b"socket"])

    def test_does_not_search_sysroots(self) -> None:
        self.make(b"recipe-sysroot/caf\xe9")
        self.make(b"source/recipe-sysroot/caf\xe9")
        special_files.extract(TASK)
        self.assertEqual(os.listdir(self.work + b"/recipe-sysroot"), [b"caf\xe9"])
        self.assertNotEqual(os.listdir(self.work + b"/source/recipe-sysroot"), [b"caf\xe9"])

    def test_no_sidecar_without_special_files(self) -> None:
        self.make(b"plain")
        self.make(os.fsencode(special_files.SIDECAR))
        special_files.extract(TASK)
        self.assertEqual(os.listdir(self.work), [b"plain"])

    def test_does_not_restore_what_a_task_removed(self) -> None:
        os.mkdir(self.work + b"/d")
        os.mkfifo(self.work + b"/d/pipe")
        path = self.make(b"caf\xe9")
        special_files.extract(TASK)
        os.rmdir(self.work + b"/d")
        os.unlink(self.work + b"/" + os.fsencode(special_files.encode_name(os.fsdecode(b"caf\xe9"))))
        special_files.restore(TASK)
        self.assertEqual(os.listdir(self.work), [os.fsencode(special_files.SIDECAR)])
        self.assertFalse(os.path.lexists(path))

    def test_another_recipe_sees_special_files_and_leaves_no_change(self) -> None:
        os.mkfifo(self.work + b"/pipe", 0o600)
        inner = self.make(b"d\xe9p/caf\xe9")
        os.mkfifo(self.work + b"/d\xe9p/pipe")
        os.symlink(b"caf\xe9", self.work + b"/link")
        self.set_times()
        special_files.extract(TASK)
        extracted = self.contents()
        other = {**TASK, "work_directory": "other", "foreign_work_directories": ["work", "other"]}
        made = special_files.restore_foreign(other)
        self.assertTrue(stat.S_ISFIFO(os.lstat(self.work + b"/pipe").st_mode))
        self.assertEqual(os.readlink(self.work + b"/link"), b"caf\xe9")
        self.assertTrue(os.path.isfile(inner))
        self.assertTrue(stat.S_ISFIFO(os.lstat(self.work + b"/d\xe9p/pipe").st_mode))
        special_files.remove_restored(made)
        self.assertEqual(self.contents(), extracted)


if __name__ == "__main__":
    unittest.main()
