# SPDX-License-Identifier: GPL-2.0-only
"""Compiled Python for the sandbox of every task.

Compiling the `bb` library costs every task a second, and a sandbox keeps no `__pycache__`. The compiled files depend
on the source and the Python version only: unchecked hash-based bytecode (PEP 552) has no modification time in it, and
version 2 of marshal does not encode which objects happened to be shared in this process.
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


def compile_all(modules: Iterable[Path], cache: Path, store: Path) -> list[list[str]]:
    """Compiles packages and modules; returns pairs of the path relative to /work and the SHA-256 in `store`.

    `cache` maps digests of sources that were compiled before to digests of their bytecode.
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
        bytecode_path = importlib.util.cache_from_source(str(path))
        compiled.append([str(Path(bytecode_path).relative_to(ROOT)), name])
    return compiled
