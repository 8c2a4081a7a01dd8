# SPDX-License-Identifier: GPL-2.0-only
"""Compiled Python for the sandbox of every task.

Compiling the `bb` library takes a second of every task's time, and a sandbox keeps no `__pycache__`. The files made
here depend on the source and the Python version alone: unchecked hash-based bytecode (PEP 552) has no modification
time in it, and version 2 of marshal does not encode which objects happened to be shared in this process.
"""

from __future__ import annotations

import hashlib
import importlib.util
import marshal
from collections.abc import Iterable, Iterator
from pathlib import Path

import cached_files

UNCHECKED_HASH = (1).to_bytes(4, "little")
MARSHAL_VERSION = 2
ROOT = Path("/work")

# Parts of BitBake's library that no task imports.
LEFT_OUT = (
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
    source = path.read_bytes()
    try:
        code = compile(source, str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        # Not for this Python; whoever imports it gets the error.
        return None
    header = importlib.util.MAGIC_NUMBER + UNCHECKED_HASH + importlib.util.source_hash(source)
    return header + marshal.dumps(code, MARSHAL_VERSION)


def sources(modules: Iterable[Path]) -> Iterator[Path]:
    for module in modules:
        for path in sorted(module.rglob("*.py")) if module.is_dir() else [module]:
            if not str(path.relative_to(module.parent)).startswith(LEFT_OUT):
                yield path


def compile_all(modules: Iterable[Path], cache: Path, store: Path) -> list[list[str]]:
    """Compiles the packages and modules `modules`: pairs of the path relative to /work and the SHA-256 in `store`.

    `cache` remembers by the source's digest what was compiled before.
    """
    version = importlib.util.MAGIC_NUMBER.hex()
    compiled = []
    for path in sources(modules):
        identity = hashlib.sha256(f"{version} {path} ".encode() + path.read_bytes()).hexdigest()
        entry = cache / f"bytecode-{identity}"
        name = entry.read_text(encoding="ascii") if cached_files.mark_used(entry) else ""
        if not name or not cached_files.mark_used(store / name):
            contents = compile_source(path)
            if contents is None:
                continue
            name = hashlib.sha256(contents).hexdigest()
            for file, data in ((store / name, contents), (entry, name.encode("ascii"))):
                temporary = file.with_name(f".{file.name}.new")
                temporary.write_bytes(data)
                temporary.rename(file)
        place = importlib.util.cache_from_source(str(path))
        compiled.append([str(Path(place).relative_to(ROOT)), name])
    return compiled
