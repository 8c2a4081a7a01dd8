# SPDX-License-Identifier: GPL-2.0-only
"""Ownership travels between two sandboxes that each have a pseudo database of their own.

Needs the program `pseudo` (Debian: apt install pseudo).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

RUNNER = Path(__file__).parent.parent / "runner"

# A stand-in for a task: what the runner does around a fakeroot task, with `ACTION` as the task.
PROGRAM = """
import json, os, stat, sys
from pathlib import Path
sys.path.insert(0, {runner!r})
import fakeroot
fakeroot.ROOT = Path({root!r})
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


class Ownership(unittest.TestCase):
    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)
        (self.root / "work").mkdir()
        state = self.root / "work/pseudo"
        task = {
            "package_name": "demo",
            "task": "do_install",
            "work_directory": "work",
            "fakeroot_command": "pseudo",
            "fakeroot_directories": str(state),
            "fakeroot_base_environment": "",
            "fakeroot_environment": f"PSEUDO_PREFIX=/usr PSEUDO_LOCALSTATEDIR={state}",
        }
        (self.root / "task.json").write_text(json.dumps(task), encoding="utf-8")

    def run_task(self, action: str) -> list[str]:
        program = self.root / "program.py"
        program.write_text(
            PROGRAM.format(runner=str(RUNNER), root=str(self.root), action=action), encoding="utf-8"
        )
        result = subprocess.run(
            [sys.executable, "-B", str(program)], capture_output=True, text=True, check=False
        )
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout.splitlines()

    def test_a_second_task_sees_what_the_first_one_set(self) -> None:
        self.assertEqual(self.run_task(CREATE + LIST), EXPECTED)
        self.assertFalse((self.root / "work/pseudo").exists(), "the database stays behind")
        self.assertEqual(self.run_task(LIST), EXPECTED)

    def test_nothing_owned_leaves_no_file(self) -> None:
        self.run_task("")
        self.assertEqual(list((self.root / "work").iterdir()), [])

    def test_a_missing_fakeroot_command_is_named(self) -> None:
        task = json.loads((self.root / "task.json").read_text(encoding="utf-8"))
        task["fakeroot_command"] = "/nonexistent/pseudo"
        (self.root / "task.json").write_text(json.dumps(task), encoding="utf-8")
        program = self.root / "program.py"
        program.write_text(
            PROGRAM.format(runner=str(RUNNER), root=str(self.root), action=""), encoding="utf-8"
        )
        result = subprocess.run(
            [sys.executable, "-B", str(program)], capture_output=True, text=True, check=False
        )
        self.assertEqual(result.returncode, 1)
        self.assertIn("demo:do_install", result.stderr)
        self.assertIn("/nonexistent/pseudo", result.stderr)


if __name__ == "__main__":
    unittest.main()
