# SPDX-License-Identifier: GPL-2.0-only
"""Compiled Python for the sandbox of every task: a program of its own, so that no metadata runs in its process.

usage: bytecode.py < PACKAGES

PACKAGES is a JSON list of packages and modules. Stdout gets a JSON list of [path relative to /work, name of the file in
/work/bytecode, SHA-256 of that file]. Those files are kept for the next time, which believes them, so nothing else may
write to that directory.

Compiling the `bb` library costs every task a second, and a sandbox keeps no `__pycache__`. The compiled files depend
on the source and the Python version only: unchecked hash-based bytecode (PEP 552) has no modification time in it, and
version 2 of marshal does not encode which objects happened to be shared in this process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import marshal
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

UNCHECKED_HASH = (1).to_bytes(4, "little")
MARSHAL_VERSION = 2
ROOT = Path("/work")
CACHE = Path("/work/bytecode")

# Parts of BitBake's library that no task imports.
EXCLUDED_MODULES = (
    "bb/tests",
    "bb/ui",
    "bb/server",
    "bb/acl",
    "bb/asyncrpc",
    "bblayers/",
    "bitbake_setup/",
    "hashserv/",
    "layerindexlib/",
    "prserv/",
)


def compile_source(path: Path) -> bytes | None:
    """Contents of the bytecode file, or None if this Python cannot compile the source."""
    source = path.read_bytes()
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        # Written for another Python; an import of it reports the error.
        return None
    header = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + importlib.util.source_hash(source)
    return header + marshal.dumps(code, MARSHAL_VERSION)


def sources(modules: Iterable[Path]) -> Iterator[Path]:
    """Yields all source files of packages and modules, except the excluded ones."""
    for module in modules:
        for path in sorted(module.rglob("*.py")) if module.is_dir() else [module]:
            if not str(path.relative_to(module.parent)).startswith(EXCLUDED_MODULES):
                yield path


def compile_all(modules: Iterable[Path], cache: Path) -> list[list[str]]:
    """Compiles packages and modules into `cache`, where a file is named after the digest of its source."""
    version = importlib.util.MAGIC_NUMBER.hex()
    compiled = []
    for path in sources(modules):
        identity = hashlib.sha256(f"{version} {path} ".encode() + path.read_bytes()).hexdigest()
        file = cache / identity
        try:
            contents: bytes | None = file.read_bytes()
            # bitzel removes files with old modification times.
            os.utime(file)
        except FileNotFoundError:
            contents = compile_source(path)
            if contents is None:
                continue
            temporary = file.with_name(f".{file.name}.new")
            temporary.write_bytes(contents)
            temporary.rename(file)
        bytecode_path = Path(importlib.util.cache_from_source(str(path))).relative_to(ROOT)
        compiled.append([str(bytecode_path), identity, hashlib.sha256(contents or b"").hexdigest()])
    return compiled


if __name__ == "__main__":
    json.dump(compile_all(map(Path, json.load(sys.stdin)), CACHE), sys.stdout)
