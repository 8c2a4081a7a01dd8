# SPDX-License-Identifier: GPL-2.0-only
"""Tasks that think they are root.

bitbake-worker starts under the metadata's FAKEROOTCMD (pseudo) for such tasks, and pseudo's database of owners,
modes and devices lives as long as the build directory. A sandbox lives for one task, and the database names files by
inode, so it cannot travel. What it says travels in a file in WORKDIR instead, relative to it:
`{path: [mode, uid, gid, device]}` for everything whose owner is not the user that the sandbox runs as.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path("/work")
SIDECAR = "bitzel-ownership.json"
# Set in the environment of the runner that runs under fakeroot; read now, because a task gets a new environment.
MARKER = "BITZEL_REAL_OWNER"
REAL_OWNER = os.environ.get(MARKER)

Document = dict[str, Any]


def variables(text: str) -> dict[str, str]:
    """FAKEROOTENV and its like: "A=b C=d"."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def is_inside() -> bool:
    return REAL_OWNER is not None


def run_inside(task: Document) -> int:
    """Runs this program again under FAKEROOTCMD, with a database of its own."""
    command = shlex.split(task["fakeroot_command"])
    if not command or shutil.which(command[0]) is None:
        sys.stderr.write(
            f"{task['package_name']}:{task['task']} is a fakeroot task, but FAKEROOTCMD ({task['fakeroot_command']!r}) "
            "is not in its sandbox; the recipe that provides it must be a dependency of the task\n"
        )
        return 1
    directories = [Path(path) for path in task["fakeroot_directories"].split()]
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
    environment = dict(os.environ)
    environment.update(variables(task["fakeroot_base_environment"]))
    environment.update(variables(task["fakeroot_environment"]))
    environment[MARKER] = f"{os.getuid()}:{os.getgid()}"
    try:
        # The interpreter's own flags (-B) come along.
        python = [sys.executable, *subprocess._args_from_interpreter_flags()]
        return subprocess.run([*command, *python, sys.argv[0]], env=environment, check=False).returncode
    finally:
        # The server keeps the database open after its last client is gone.
        subprocess.run([*command, "-S"], env=environment, check=False, stdout=subprocess.DEVNULL)
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


def _tracked(task: Document) -> Iterator[Path]:
    """All that pseudo may know about in WORKDIR, directories before what is in them."""
    work_directory = ROOT / task["work_directory"]
    listed = variables(task["fakeroot_environment"]).get("PSEUDO_INCLUDE_PATHS", "")
    tops = [Path(os.path.normpath(path)) for path in listed.split(",") if path] or [work_directory]
    for top in sorted(set(tops)):
        if work_directory != top and work_directory not in top.parents:
            continue
        for directory, directories, files in os.walk(top):
            yield Path(directory)
            links = [name for name in directories if Path(directory, name).is_symlink()]
            for name in sorted(files + links):
                yield Path(directory, name)


def apply_ownership(task: Document) -> None:
    """Tells the new database what the tasks before this one left."""
    work_directory = ROOT / task["work_directory"]
    sidecar = work_directory / SIDECAR
    if not sidecar.is_file():
        return
    for name, (mode, uid, gid, device) in json.loads(sidecar.read_text(encoding="utf-8")).items():
        path = work_directory / name
        if not os.path.lexists(path):
            continue
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            path.unlink()
            os.mknod(path, mode, device)
        os.lchown(path, uid, gid)
        if not stat.S_ISLNK(mode):
            # After the owner: changing that clears set-user-id bits.
            os.chmod(path, stat.S_IMODE(mode))


def write_ownership(task: Document) -> None:
    work_directory = ROOT / task["work_directory"]
    entries = {}
    for path in _tracked(task):
        status = path.lstat()
        if f"{status.st_uid}:{status.st_gid}" != REAL_OWNER or status.st_rdev:
            name = str(path.relative_to(work_directory))
            entries[name] = [status.st_mode, status.st_uid, status.st_gid, status.st_rdev]
    sidecar = work_directory / SIDECAR
    if entries:
        lines = ",\n".join(f"{json.dumps(name)}: {entries[name]}" for name in sorted(entries))
        sidecar.write_text(f"{{{lines}}}\n", encoding="utf-8")
    else:
        sidecar.unlink(missing_ok=True)
