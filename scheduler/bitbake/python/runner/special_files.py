# SPDX-License-Identifier: GPL-2.0-only
"""Transfer of files that the Remote Execution API cannot represent from task to task.

A Directory message has regular files, directories and symbolic links, and its strings are UTF-8. Named pipes, other
names and other link targets are extracted from a recipe's private trees after a task and written to a sidecar file in
WORKDIR; the next task that gets these trees restores them first. Sockets are dropped: no process listens on them.
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
# Prefix of an encoded name: a name that is not UTF-8 is replaced by this and its bytes in hexadecimal.
ENCODED_NAME_PREFIX = "bitzel-name-"
# Directories below WORKDIR without special files: they hold only published results.
EXCLUDED_DIRECTORIES = frozenset({"recipe-sysroot", "recipe-sysroot-native"})

Document = dict[str, Any]


def is_utf8(text: str) -> bool:
    """True if a name or link target, in Python's decoded form (PEP 383), is UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def encode_name(name: str) -> str:
    """The name itself if it is UTF-8, else its encoded form."""
    return name if is_utf8(name) else ENCODED_NAME_PREFIX + os.fsencode(name).hex()


def decode_name(name: str) -> str:
    """Inverse of `encode_name`."""
    if not name.startswith(ENCODED_NAME_PREFIX):
        return name
    return os.fsdecode(bytes.fromhex(name[len(ENCODED_NAME_PREFIX) :]))


@contextmanager
def preserved_time(directory: str) -> Iterator[None]:
    """Restores a directory's times and mode after a change in it, and makes it writable for the change.

    Later tasks see the modification time.
    """
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


def extract(task: Document) -> None:
    """Removes special files from the task's private trees and describes them in the sidecar file."""
    if not task["work_directory"]:
        return
    found: Document = {"pipes": {}, "targets": {}, "names": []}
    # The fakeroot program's own directory: the program still runs, and has a socket there.
    fakeroot_directories = frozenset(os.path.normpath(path) for path in task["fakeroot_directories"].split())
    for tree in _private_trees(task):
        skipped = fakeroot_directories | {f"{tree}/{name}" for name in EXCLUDED_DIRECTORIES}
        _extract_below(tree, os.path.relpath(tree, ROOT), found, skipped)
    sidecar = ROOT / task["work_directory"] / SIDECAR
    if any(found.values()):
        sidecar.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    elif sidecar.exists():
        sidecar.unlink()


def _extract_below(directory: str, place: str, found: Document, skipped: Set[str]) -> None:
    """Extracts from one directory; `place` is its path relative to /work with all names encoded."""
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
                with preserved_time(directory):
                    os.unlink(entry.path)
                continue
        elif entry.is_dir(follow_symlinks=False):
            if entry.path in skipped:
                continue
            _extract_below(entry.path, at, found, skipped)
        elif not entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISFIFO(status.st_mode):
                found["pipes"][at] = [stat.S_IMODE(status.st_mode), status.st_mtime_ns]
            elif stat.S_ISSOCK(status.st_mode):
                sys.stderr.write(f"NOTE: the socket {entry.path} is not part of the task's result\n")
            else:
                continue
            with preserved_time(directory):
                os.unlink(entry.path)
            continue
        if name != entry.name:
            found["names"].append(at)
            with preserved_time(directory):
                shutil.move(entry.path, f"{directory}/{name}")


def restore(task: Document) -> None:
    """Makes the special files that the sidecar file describes."""
    sidecar = ROOT / task["work_directory"] / SIDECAR
    if not task["work_directory"] or not sidecar.is_file():
        return
    found: Document = json.loads(sidecar.read_text(encoding="utf-8"))
    _make_pipes_and_links(found)
    # The deepest first: a path is valid only while the directories above have their encoded names. Pipes and links with
    # encoded names of their own are renamed too, if they exist.
    encoded = {*found["names"], *found["pipes"], *found["targets"]}
    for place in sorted(encoded, key=lambda place: (-place.count("/"), place)):
        path = ROOT / place
        name = decode_name(path.name)
        if name != path.name and os.path.lexists(path):
            with preserved_time(str(path.parent)):
                shutil.move(path, path.with_name(name))


def restore_foreign(task: Document) -> list[Path]:
    """Makes the special files of other recipes' private trees. Returns their paths, for `remove_restored`.

    A file or directory whose name is not UTF-8 is copied to its name, and its encoded name stays beside it: a renamed
    file would be a change of another recipe's tree.
    """
    made: list[Path] = []
    for work_directory in task.get("foreign_work_directories") or []:
        sidecar = ROOT / work_directory / SIDECAR
        if work_directory != task["work_directory"] and sidecar.is_file():
            found: Document = json.loads(sidecar.read_text(encoding="utf-8"))
            made += _make_pipes_and_links(found)
            made += _copy_to_names(found)
    return made


def _copy_to_names(found: Document) -> list[Path]:
    """Copies entries with encoded names to their names, and returns the copies."""
    made = []
    # The deepest first: the copy of a directory then has the copies in it.
    encoded = {*found["names"], *found["pipes"], *found["targets"]}
    for place in sorted(encoded, key=lambda place: (-place.count("/"), place)):
        path = ROOT / place
        target = path.with_name(decode_name(path.name))
        if target != path and os.path.lexists(path) and not os.path.lexists(target):
            with preserved_time(str(path.parent)):
                _copy(path, target)
            made.append(target)
    return made


def _copy(path: Path, target: Path) -> None:
    """Copies an entry of any kind with its times."""
    if path.is_symlink() or not path.is_dir():
        _copy_file(str(path), str(target))
    else:
        shutil.copytree(path, target, symlinks=True, copy_function=_copy_file)


def _copy_file(path: str, target: str) -> str:
    status = os.lstat(path)
    if stat.S_ISFIFO(status.st_mode):
        os.mkfifo(target)
        os.chmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        shutil.copy2(path, target, follow_symlinks=False)
    return target


def remove_restored(made: list[Path]) -> None:
    """Removes what `restore_foreign` made, so that the other recipes' trees are unchanged."""
    for path in reversed(made):
        if os.path.lexists(path):
            with preserved_time(str(path.parent)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _make_pipes_and_links(found: Document) -> list[Path]:
    """Makes the pipes and links of a sidecar file that do not exist yet, and returns their paths."""
    made = []
    for place, (mode, modified) in found["pipes"].items():
        path = ROOT / place
        if path.parent.is_dir() and not os.path.lexists(path):
            with preserved_time(str(path.parent)):
                os.mkfifo(path)
            os.chmod(path, mode)
            os.utime(path, ns=(modified, modified))
            made.append(path)
    for place, target in found["targets"].items():
        path = ROOT / place
        if path.parent.is_dir() and not os.path.lexists(path):
            with preserved_time(str(path.parent)):
                os.symlink(os.fsdecode(bytes.fromhex(target)), path)
            made.append(path)
    return made
