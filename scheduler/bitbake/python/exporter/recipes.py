# SPDX-License-Identifier: GPL-2.0-only
"""Export of recipe variants: the data store snapshot, and the graph's messages of the recipe and its tasks.

A full parse of a recipe takes about 60 ms, so the results are cached per recipe variant under everything that
BitBake's own cache depends on. Forked children parse the recipes that are not in the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bb
import bb.cache
import bb.utils
import cached_files
import data_store
import parallel
from cooker import Cooker, Failed
from metadata_values import Document, is_below, relative, words
from python_libraries import module_dependencies, python_libraries, registering_modules
from sources import files_of_fetch_code, sources, upstream_revisions
from task_code import code_dependencies, opens_terminal, reads_dependency_data, runs_function
from task_outputs import other_private_directories, published_paths

# Snapshots of this export, and those of earlier ones, which the metadata of this one must not change.
SNAPSHOTS = Path("/work/out/snapshots")
KNOWN_SNAPSHOTS = Path("/work/known")
CACHE = Path("/work/recipes")

# Tasks that free disk space in TMPDIR (OE's rm_work.bbclass): there is none, and later tasks may need what they delete.
TASKS_OF_TMPDIR = frozenset({"do_rm_work"})

# Raised when the cached documents change their meaning.
CACHE_VERSION = 5


def write_snapshot(multiconfig: str, contents: bytes) -> Document:
    """Stores a snapshot under its digest; returns the Snapshot message as JSON."""
    name = hashlib.sha256(contents).hexdigest()
    if not has_snapshot(name):
        path = SNAPSHOTS / name
        # Several children may write the same snapshot; the rename makes it appear complete.
        temporary = SNAPSHOTS / f".{name}.{os.getpid()}"
        temporary.write_bytes(contents)
        temporary.rename(path)
    return {"multiconfig": multiconfig, "sha256": name, "size_bytes": len(contents)}


def has_snapshot(name: str) -> bool:
    """True if a snapshot was written in this export or an earlier one."""
    return (KNOWN_SNAPSHOTS / name).exists() or (SNAPSHOTS / name).exists()


class RecipeExporter:
    """Exporter of the recipe variants of one parsed build directory."""

    def __init__(self, cooker: Cooker, code_digest: str) -> None:
        self.cooker = cooker
        self.code_digest = code_digest
        self.bases = {
            name: data_store.StoreContents(data) for name, data in cooker.data_builder.mcdata.items()
        }
        self.base_snapshots = {
            name: write_snapshot(name, data_store.encode(self._base_document(name))) for name in self.bases
        }

    def _base_document(self, multiconfig: str) -> Document:
        document = self.bases[multiconfig].base_document()
        data = self.cooker.data_builder.mcdata[multiconfig]
        original_environment = data.getVar("BB_ORIGENV", False)
        document["original_environment"] = {
            name: original_environment.getVar(name, False) for name in sorted(original_environment.keys())
        }
        document["build_files"] = self.cooker.files_of_build_start(multiconfig)
        document["python_libraries"] = python_libraries()
        document["registering_modules"] = registering_modules()
        document["module_dependencies"] = module_dependencies()
        return document

    def export(self, keys: Iterable[str]) -> dict[str, Document]:
        """Documents of the recipe variants `keys`, by key."""
        documents: dict[str, Document] = {}
        missing: dict[str, Path] = {}
        for key in keys:
            path = CACHE / self._cache_name(key)
            document = None if self.cooker.is_volatile(key) else read_cached(path)
            if document is None:
                missing[key] = path
            else:
                documents[key] = document
        documents.update(self._export_in_parallel(missing))
        return documents

    def _cache_name(self, key: str) -> str:
        real_file, _, multiconfig = bb.cache.virtualfn2realfn(key)
        information = self.cooker.recipe_information(key)
        identity = [
            CACHE_VERSION,
            data_store.FORMAT_VERSION,
            self.code_digest,
            bb.__version__,
            key,
            self.base_snapshots[multiconfig]["sha256"],
            self.cooker.data_builder.data_hash,
            self.cooker.appends(key, multiconfig),
            self.cooker.layer_name(real_file, multiconfig),
            sorted([file, str(modified)] for file, modified in information.file_depends),
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()

    def _export_in_parallel(self, missing: dict[str, Path]) -> dict[str, Document]:
        """Exports into the cache with forked children, which share the parsed configuration of this process, and reads
        the cache."""
        keys = sorted(missing)
        parallel.run(keys, lambda key: self._export_and_cache(key, missing[key]))
        documents = {}
        for key in keys:
            document = read_cached(missing[key])
            if document is None:
                raise Failed(f"the export of {key} is not in the cache although it was just written")
            documents[key] = document
        return documents

    def _export_and_cache(self, key: str, path: Path) -> None:
        document = self._export_one(key)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(document), encoding="utf-8", errors="surrogateescape")
        temporary.rename(path)

    def _export_one(self, key: str) -> Document:
        real_file, _, multiconfig = bb.cache.virtualfn2realfn(key)
        cache = self.cooker.caches[multiconfig]
        appends = self.cooker.appends(key, multiconfig)
        layer_name = self.cooker.layer_name(real_file, multiconfig)
        data = self.cooker.parse_recipe(key, appends, layer_name)
        contents = data_store.StoreContents(data)
        snapshot = contents.recipe_document(self.bases[multiconfig])
        if self.cooker.is_volatile(key):
            snapshot["upstream_revisions"] = upstream_revisions(data)
        work_directory = data.getVar("WORKDIR") or ""
        tasks = cache.task_deps[key]["tasks"]
        fetched = (
            files_of_fetch_code(data, code_dependencies(data, cache, key, "do_fetch"))
            if "do_fetch" in tasks
            else []
        )
        return {
            "recipe": {
                "key": key,
                "multiconfig": multiconfig,
                "package_name": cache.pkg_fn[key],
                "layer_name": layer_name,
                "provides": sorted(cache.fn_provides[key]),
                "appends": appends,
                "hash_filename": cache.hashfn[key] or "",
                "fakeroot_environment": cache.fakerootenv[key] or "",
                "fakeroot_directories": cache.fakerootdirs[key] or "",
                "fakeroot_no_environment": cache.fakerootnoenv[key] or "",
                "fakeroot_command": data.getVar("FAKEROOTCMD") or "",
                "fakeroot_base_environment": data.getVar("FAKEROOTBASEENV") or "",
                "work_directory": relative(work_directory) if work_directory else "",
                "log_directory": relative(data.getVar("T") or f"{work_directory}/temp"),
                "other_private_directories": other_private_directories(data, tasks, work_directory),
                "snapshot": write_snapshot(multiconfig, data_store.encode(snapshot)),
                "sources": sources(data) + fetched,
            },
            "tasks": {task: self._export_task(data, cache, key, task, bool(fetched)) for task in tasks},
        }

    def _export_task(self, data: Any, cache: Any, key: str, task: str, has_fetch_code: bool) -> Document:
        flags = data.getVarFlags(task) or {}

        def flag(name: str) -> str:
            return data.expand(str(flags[name])) if flags.get(name) is not None else ""

        def is_set(name: str) -> bool:
            # BitBake tests for the presence in the recipe's task list and ignores the value.
            return task in cache.task_deps[key].get(name, {})

        inputs, outputs = words(flag("sstate-inputdirs")), words(flag("sstate-outputdirs"))
        plain = words(flag("sstate-plaindirs"))
        document = {
            "fakeroot": is_set("fakeroot"),
            "setscene_fakeroot": f"{task}_setscene" in cache.task_deps[key].get("fakeroot", {}),
            "network": bb.utils.to_boolean(flag("network")),
            "nostamp": is_set("nostamp"),
            "noexec": is_set("noexec") or task in TASKS_OF_TMPDIR,
            "umask": cache.task_deps[key].get("umask", {}).get(task, ""),
            "lockfiles": [relative(path) for path in words(flag("lockfiles"))],
            "sstate_directories": [
                {"source": relative(source), "destination": relative(destination)}
                for source, destination in zip(inputs, outputs)
            ],
            "sstate_plain_directories": [relative(path) for path in plain],
            "published_paths": published_paths(data, task, outputs, plain, has_fetch_code),
            "shares_work_tree": any(is_below(path, data.getVar("WORKDIR")) for path in plain),
            "stays_visible": any(
                not is_below(path, data.getVar("COMPONENTS_DIR"))
                and not is_below(path, data.getVar("WORKDIR"))
                and not is_below(path, data.getVar("PKGDATA_DIR"))
                for path in outputs + plain
            ),
            "needs_dependency_data": reads_dependency_data(data, cache, key, task),
            "interactive": opens_terminal(data, cache, key, task),
            "extends_sysroot": runs_function(data, task, "extend_recipe_sysroot"),
        }
        return {name: value for name, value in document.items() if value}


def read_cached(path: Path) -> Document | None:
    """A cached document, marked as used; None if it or its snapshot is missing."""
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return None
    if not has_snapshot(document["recipe"]["snapshot"]["sha256"]):
        return None
    cached_files.mark_used(path)
    return document
