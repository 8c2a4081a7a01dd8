# SPDX-License-Identifier: GPL-2.0-only
"""Files that the Remote Execution API cannot name, on their way from task to task.

Its Directory message knows regular files, directories and symbolic links, and strings that are UTF-8. Named pipes,
other names and other link targets are taken out of a recipe's private trees after a task and written to a file in
WORKDIR; the next task that gets these trees starts with putting them back. Sockets are left out: nobody listens.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path("/work")
SIDECAR = "bitzel-special-files.json"
# Stands, followed by the name's bytes in hex, for a name that is not UTF-8.
ENCODED_NAME = "bitzel-name-"
# Below WORKDIR; what components published has none of these.
NOT_SEARCHED = frozenset({"recipe-sysroot", "recipe-sysroot-native"})

Document = dict[str, Any]


def is_utf8(text: str) -> bool:
    """Whether a name or link target, as Python decodes it (PEP 383), is UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def encode_name(name: str) -> str:
    return name if is_utf8(name) else ENCODED_NAME + os.fsencode(name).hex()


def decode_name(name: str) -> str:
    return os.fsdecode(bytes.fromhex(name[len(ENCODED_NAME) :])) if name.startswith(ENCODED_NAME) else name


@contextmanager
def kept_time(directory: str) -> Iterator[None]:
    """Keeps a directory's modification time, which later tasks see, over a change in it; makes it writable for that."""
    status = os.stat(directory)
    mode = stat.S_IMODE(status.st_mode)
    is_writable = mode & stat.S_IRWXU == stat.S_IRWXU
    if not is_writable:
        os.chmod(directory, mode | stat.S_IRWXU)
    try:
        yield
    finally:
        if not is_writable:
            os.chmod(directory, mode)
        os.utime(directory, ns=(status.st_atime_ns, status.st_mtime_ns))


def _private_trees(task: Document) -> list[str]:
    paths = [task["work_directory"], *task["private_directories"]]
    return [str(ROOT / path) for path in paths if path]


def take_out(task: Document) -> None:
    """Replaces special files by what the sidecar says about them."""
    if not task["work_directory"]:
        return
    found: Document = {"pipes": {}, "targets": {}, "names": []}
    # The fakeroot program's own directory: it still works there, with a socket.
    left_out = frozenset(os.path.normpath(path) for path in task["fakeroot_directories"].split())
    for tree in _private_trees(task):
        skipped = left_out | {f"{tree}/{name}" for name in NOT_SEARCHED}
        _take_out_of(tree, os.path.relpath(tree, ROOT), found, skipped)
    sidecar = ROOT / task["work_directory"] / SIDECAR
    if any(found.values()):
        sidecar.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    elif sidecar.exists():
        sidecar.unlink()


def _take_out_of(directory: str, place: str, found: Document, skipped: Set[str]) -> None:
    """`place` is the path relative to /work that the directory has once its own name is encoded."""
    try:
        entries = list(os.scandir(directory))
    except (FileNotFoundError, PermissionError):
        return
    for entry in entries:
        name = encode_name(entry.name)
        at = f"{place}/{name}"
        if entry.is_symlink():
            target = os.readlink(entry.path)
            if not is_utf8(target):
                found["targets"][at] = os.fsencode(target).hex()
                with kept_time(directory):
                    os.unlink(entry.path)
                continue
        elif entry.is_dir(follow_symlinks=False):
            if entry.path in skipped:
                continue
            _take_out_of(entry.path, at, found, skipped)
        elif not entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISFIFO(status.st_mode):
                found["pipes"][at] = [stat.S_IMODE(status.st_mode), status.st_mtime_ns]
            elif stat.S_ISSOCK(status.st_mode):
                sys.stderr.write(f"NOTE: the socket {entry.path} is not part of the task's result\n")
            else:
                continue
            with kept_time(directory):
                os.unlink(entry.path)
            continue
        if name != entry.name:
            found["names"].append(at)
            with kept_time(directory):
                shutil.move(entry.path, f"{directory}/{name}")


def put_back(task: Document) -> None:
    """Makes the special files that the sidecar names."""
    sidecar = ROOT / task["work_directory"] / SIDECAR
    if not task["work_directory"] or not sidecar.is_file():
        return
    found: Document = json.loads(sidecar.read_text(encoding="utf-8"))
    for place, (mode, modified) in found["pipes"].items():
        path = ROOT / place
        if path.parent.is_dir() and not os.path.lexists(path):
            with kept_time(str(path.parent)):
                os.mkfifo(path)
            os.chmod(path, mode)
            os.utime(path, ns=(modified, modified))
    for place, target in found["targets"].items():
        path = ROOT / place
        if path.parent.is_dir() and not os.path.lexists(path):
            with kept_time(str(path.parent)):
                os.symlink(os.fsdecode(bytes.fromhex(target)), path)
    # The deepest first: the others' paths hold as long as the directories above keep their encoded names. Pipes and
    # links whose own names are encoded are among them only if they are there.
    encoded = {*found["names"], *found["pipes"], *found["targets"]}
    for place in sorted(encoded, key=lambda place: (-place.count("/"), place)):
        path = ROOT / place
        name = decode_name(path.name)
        if name != path.name and os.path.lexists(path):
            with kept_time(str(path.parent)):
                shutil.move(path, path.with_name(name))
