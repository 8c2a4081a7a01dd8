# SPDX-License-Identifier: GPL-2.0-only
"""Fakeroot tasks: file owners, devices, hard links and extended attributes across sandboxes.

For such tasks bitbake-worker runs under the metadata's FAKEROOTCMD (pseudo), whose database of owners, modes and
devices exists as long as the build directory. A sandbox exists for one task, and the database identifies files by
inode, so it is of no use in the next sandbox. A sidecar file in WORKDIR carries its content instead, by path relative
to WORKDIR, together with hard links and extended attributes, which a Directory message cannot represent.
"""

from __future__ import annotations

import base64
import filecmp
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

from special_files import preserved_time

ROOT = Path("/work")
SIDECAR = "bitzel-ownership.json"
LOGS = ROOT / "bitzel/log"
# Environment variable of the runner process under fakeroot. Read at import, because a task gets a new environment.
MARKER = "BITZEL_REAL_OWNER"
REAL_OWNER = os.environ.get(MARKER)

Document = dict[str, Any]


def variables(text: str) -> dict[str, str]:
    """Environment variables in a value of FAKEROOTENV or its relatives: "A=b C=d"."""
    return dict(word.split("=", 1) for word in text.split() if "=" in word)


def is_inside() -> bool:
    """True if this process runs under fakeroot."""
    return REAL_OWNER is not None


def run_inside(task: Document) -> int:
    """Runs this program again under FAKEROOTCMD, with its own database."""
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
    separate_equal_files(task)
    environment = dict(os.environ)
    environment.update(variables(task["fakeroot_base_environment"]))
    environment.update(variables(task["fakeroot_environment"]))
    environment[MARKER] = f"{os.getuid()}:{os.getgid()}"
    try:
        # With the interpreter's own flags (-B).
        python = [sys.executable, *subprocess._args_from_interpreter_flags()]
        return subprocess.run([*command, *python, sys.argv[0]], env=environment, check=False).returncode
    finally:
        # Stops the server, which keeps the database open after its last client has ended.
        subprocess.run([*command, "-S"], env=environment, check=False, stdout=subprocess.DEVNULL)
        for directory in directories:
            _keep_log(directory / "pseudo.log")
            shutil.rmtree(directory, ignore_errors=True)


def _keep_log(log: Path) -> None:
    """Copies pseudo's log to the task's logs: it is the only place with the reason when pseudo aborts."""
    if log.is_file() and log.stat().st_size > 0:
        LOGS.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, LOGS / log.name)


def separate_equal_files(task: Document) -> None:
    """Gives every file its own inode, which later changes keep.

    A worker creates equal files of a tree as hard links to one file. pseudo's database has one path per inode, and
    pseudo aborts when it meets a second path. On an overlay the first change of a file gives it another inode; under
    pseudo its database would keep the old one, and a hard link to the file would make pseudo abort as well.
    """
    seen = set()
    for path in _tracked(task):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            continue
        inode = (status.st_dev, status.st_ino)
        if inode in seen:
            copy = path.with_name(".bitzel-copy")
            with preserved_time(str(path.parent)):
                shutil.copy2(path, copy)
                copy.replace(path)
        else:
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        seen.add(inode)


def _tracked(task: Document) -> Iterator[Path]:
    """Yields all paths in WORKDIR that pseudo may have in its database, directories before their content."""
    settings = variables(task["fakeroot_environment"])

    def prefixes(name: str) -> tuple[str, ...]:
        return tuple(path for path in settings.get(name, "").split(",") if path)

    # As in pseudo_client.c: prefixes of strings, not of paths ("package" matches "packages-split", too); if any path is
    # included, none are ignored.
    included = prefixes("PSEUDO_INCLUDE_PATHS")
    ignored = () if included else prefixes("PSEUDO_IGNORE_PATHS")
    return _tracked_below(str(ROOT / task["work_directory"]), included or ("",), ignored)


def _tracked_below(directory: str, included: tuple[str, ...], ignored: tuple[str, ...]) -> Iterator[Path]:
    is_included = directory.startswith(included)
    leads_there = is_included or any(path.startswith(f"{directory}/") for path in included)
    if not leads_there or directory.startswith(ignored) or not os.path.isdir(directory):
        return
    if is_included:
        yield Path(directory)
    with os.scandir(directory) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _tracked_below(entry.path, included, ignored)
        elif entry.path.startswith(included) and not entry.path.startswith(ignored):
            yield Path(entry.path)


def _attributes(path: Path) -> dict[str, str]:
    """Extended attributes by name, values in base64; empty on a file system without them."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
        values = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    except OSError:
        return {}
    return {name: base64.b64encode(value).decode("ascii") for name, value in sorted(values.items())}


def apply_ownership(task: Document) -> None:
    """Sets owners, devices, attributes and hard links as the sidecar file describes them, for the new database."""
    work_directory = ROOT / task["work_directory"]
    sidecar = work_directory / SIDECAR
    if not sidecar.is_file():
        return
    document = json.loads(sidecar.read_text(encoding="utf-8"))
    for name, (mode, uid, gid, device) in document["owners"].items():
        path = work_directory / name
        if not os.path.lexists(path):
            continue
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            with preserved_time(str(path.parent)):
                path.unlink()
                os.mknod(path, mode, device)
        os.lchown(path, uid, gid)
        if not stat.S_ISLNK(mode):
            # After the owner: a change of owner clears set-user-id bits.
            os.chmod(path, stat.S_IMODE(mode))
    for name, attributes in document["attributes"].items():
        for attribute, value in attributes.items():
            if os.path.lexists(work_directory / name):
                os.setxattr(work_directory / name, attribute, base64.b64decode(value), follow_symlinks=False)
    for first, *others in document["links"]:
        source = work_directory / first
        if source.is_file():
            # pseudo aborts at a link to a file that is not in its database; setting the owner adds the file.
            status = source.lstat()
            os.lchown(source, status.st_uid, status.st_gid)
        for other in others:
            path = work_directory / other
            if is_still_equal(source, path):
                with preserved_time(str(path.parent)):
                    path.unlink()
                    os.link(source, path, follow_symlinks=False)


def is_still_equal(first: Path, second: Path) -> bool:
    """True if two former hard links have the same content; a task without fakeroot may have replaced one of them."""
    return (
        first.is_file()
        and second.is_file()
        and not first.is_symlink()
        and not second.is_symlink()
        and filecmp.cmp(first, second, shallow=False)
    )


def write_ownership(task: Document) -> None:
    """Writes the sidecar file for later tasks, or removes it if there is nothing to describe."""
    work_directory = ROOT / task["work_directory"]
    owners: dict[str, list[int]] = {}
    attributes: dict[str, dict[str, str]] = {}
    inodes: dict[tuple[int, int], list[str]] = {}
    for path in _tracked(task):
        status = path.lstat()
        name = str(path.relative_to(work_directory))
        if f"{status.st_uid}:{status.st_gid}" != REAL_OWNER or status.st_rdev:
            owners[name] = [status.st_mode, status.st_uid, status.st_gid, status.st_rdev]
        if found := _attributes(path):
            attributes[name] = found
        if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
            inodes.setdefault((status.st_dev, status.st_ino), []).append(name)
    links = sorted(sorted(names) for names in inodes.values() if len(names) > 1)
    sidecar = work_directory / SIDECAR
    if owners or attributes or links:
        document = {"owners": owners, "attributes": attributes, "links": links}
        sidecar.write_text(
            json.dumps(document, sort_keys=True, indent=0, separators=(",", ":")) + "\n", encoding="utf-8"
        )
    else:
        sidecar.unlink(missing_ok=True)
