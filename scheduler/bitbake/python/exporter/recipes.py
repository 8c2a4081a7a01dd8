# SPDX-License-Identifier: GPL-2.0-only
"""One recipe variant: its data store snapshot and what the graph says about it and its tasks.

Parsing a recipe in full costs some 60 ms, so the results are cached per recipe variant under everything BitBake's
own cache depends on, and the misses are worked off by forked children.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import bb
import bb.cache
import bb.codeparser
import bb.fetch2
import cached_files
import cooker_releases
import data_store
import task_releases
import work
from cooker import Cooker, Failed

ROOT = "/work/"
SNAPSHOTS = Path("/work/out/snapshots")
CACHE = Path("/work/out/recipes")

# Raised when the meaning of what is cached here changes.
CACHE_VERSION = 2

EXECUTED_FUNCTION = re.compile(r"""exec_func\(\s*['"]([\w-]+)['"]""")

Document = dict[str, Any]


def relative(path: str) -> str:
    """A path of the sandbox as the graph has it."""
    return os.path.normpath(path).removeprefix(ROOT)


def is_below(path: str, directory: str | None) -> bool:
    return bool(directory) and f"{os.path.normpath(path)}/".startswith(f"{os.path.normpath(directory)}/")


def write_snapshot(multiconfig: str, contents: bytes) -> Document:
    name = hashlib.sha256(contents).hexdigest()
    path = SNAPSHOTS / name
    if not cached_files.mark_used(path):
        # Several children may write the same snapshot; the rename makes either one whole.
        temporary = SNAPSHOTS / f".{name}.{os.getpid()}"
        temporary.write_bytes(contents)
        temporary.rename(path)
    return {"multiconfig": multiconfig, "sha256": name, "size_bytes": len(contents)}


def words(value: Any) -> list[str]:
    return str(value).split() if value else []


class RecipeExporter:
    """Exports recipe variants of one parsed build directory."""

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
        """The documents of the recipe variants `keys`, by key."""
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
        """Exports into the cache with forked children, which share this process's parsed configuration, and reads
        the cache."""
        keys = sorted(missing)
        work.share(keys, lambda key: self._export_and_cache(key, missing[key]))
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
        return {
            "recipe": {
                "key": key,
                "multiconfig": multiconfig,
                "package_name": cache.pkg_fn[key],
                "package_version": data.getVar("PV") or "",
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
                "sources": sources(data),
            },
            "tasks": {task: self._export_task(data, cache, key, task) for task in tasks},
        }

    def _export_task(self, data: Any, cache: Any, key: str, task: str) -> Document:
        flags = data.getVarFlags(task) or {}

        def flag(name: str) -> str:
            return data.expand(str(flags[name])) if flags.get(name) is not None else ""

        def is_set(name: str) -> bool:
            # BitBake tests the presence in the recipe's task list, not the value.
            return task in cache.task_deps[key].get(name, {})

        inputs, outputs = words(flag("sstate-inputdirs")), words(flag("sstate-outputdirs"))
        plain = words(flag("sstate-plaindirs"))
        document = {
            "python": bool(flags.get("python")),
            "fakeroot": is_set("fakeroot"),
            "network": bb.utils.to_boolean(flag("network")),
            "nostamp": is_set("nostamp"),
            "noexec": is_set("noexec"),
            "umask": cache.task_deps[key].get("umask", {}).get(task, ""),
            "directories": [relative(path) for path in words(flag("dirs"))],
            "clean_directories": [relative(path) for path in words(flag("cleandirs"))],
            "lockfiles": [relative(path) for path in words(flag("lockfiles"))],
            "prefuncs": words(flag("prefuncs")),
            "postfuncs": words(flag("postfuncs")),
            "sstate_directories": [
                {"source": relative(source), "destination": relative(destination)}
                for source, destination in zip(inputs, outputs)
            ],
            "sstate_plain_directories": [relative(path) for path in plain],
            "stamp_extra_info": flag("stamp-extra-info"),
            "published_paths": published_paths(data, task, outputs, plain),
            "shares_work_tree": any(is_below(path, data.getVar("WORKDIR")) for path in plain),
            "stays_visible": any(
                not is_below(path, data.getVar("COMPONENTS_DIR"))
                and not is_below(path, data.getVar("WORKDIR"))
                and not is_below(path, data.getVar("PKGDATA_DIR"))
                for path in outputs + plain
            ),
            "needs_dependency_data": reads_dependency_data(data, cache, key, task),
            "extends_sysroot": runs_function(data, task, "extend_recipe_sysroot"),
        }
        return {name: value for name, value in document.items() if value}


def read_cached(path: Path) -> Document | None:
    try:
        document: Document = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return None
    if not cached_files.mark_used(SNAPSHOTS / document["recipe"]["snapshot"]["sha256"]):
        return None
    cached_files.mark_used(path)
    return document


def python_libraries() -> list[list[str]]:
    """The `addpylib` namespaces in the order of import: [directory, namespace, submodules to import]."""
    namespaces = []
    for name, module in bb.utils.get_context().items():
        imports = getattr(module, "BBIMPORTS", None)
        if imports is None:
            continue
        directory = os.path.dirname(os.path.dirname(module.__file__))
        namespaces.append([directory, name, *imports])
    return namespaces


def registering_modules() -> list[str]:
    """The `addpylib` modules that put something of theirs into bb when they are imported: signature generators,
    filters. All others can wait until a task uses them."""
    namespaces = tuple(f"{namespace}." for _, namespace, *_ in python_libraries())
    found = set()
    for name, module in list(sys.modules.items()):
        if name == "bb" or name.startswith("bb."):
            for value in list(vars(module).values()):
                members = list(value.values()) if isinstance(value, dict) else [value]
                owners = (getattr(member, "__module__", None) for member in members)
                found.update(owner for owner in owners if isinstance(owner, str))
    return sorted(name for name in found if name.startswith(namespaces))


def module_dependencies() -> dict[str, list[Any]]:
    """What BitBake found in the Python code of the `addpylib` modules, which enters the signatures."""
    return {
        name: task_releases.encode_module_dependencies(entry)
        for name, entry in bb.codeparser.modulecode_deps.items()
    }


def sources(data: Any) -> list[Document]:
    """SRC_URI in order, with the name that the fetcher looks for below DL_DIR."""
    uris = words(data.getVar("SRC_URI"))
    if not uris:
        return []
    downloads = (data.getVar("DL_DIR") or "").rstrip("/") + "/"
    documents = []
    try:
        fetcher = bb.fetch2.Fetch(uris, data, localonly=False)
    except bb.fetch2.BBFetchException:
        # do_fetch says it better, and only if it is wanted.
        return [{"uri": uri} for uri in uris]
    for uri in uris:
        source = fetcher.ud[uri]
        name = ""
        if source.type != "file":
            with contextlib.suppress(bb.fetch2.BBFetchException):
                source.setup_localpath(data)
            local = source.localpath or ""
            name = local.removeprefix(downloads) if local.startswith(downloads) else source.localfile or ""
        documents.append({"uri": uri, "download_name": name} if name else {"uri": uri})
    return documents


def upstream_revisions(data: Any) -> dict[str, str]:
    """The newest revisions that this parse found upstream, by BitBake's own key (bb.fetch2.FetchMethod).

    Tasks have no network to ask again, and have to build what the signature says.
    """
    revisions: dict[str, str] = {}
    fetcher = bb.fetch2.Fetch(words(data.getVar("SRC_URI")), data, localonly=False)
    for source in fetcher.ud.values():
        revisions.update(cooker_releases.upstream_revisions(source, data))
    return revisions


def other_private_directories(data: Any, tasks: list[str], work_directory: str) -> list[str]:
    """Directories of the recipe's own tasks outside WORKDIR: a shared work directory that it unpacks into."""
    temporary = (data.getVar("TMPDIR") or "").rstrip("/") + "/"
    candidates: list[str] = []
    if "do_unpack" in tasks and not data.getVarFlag("do_unpack", "noexec"):
        candidates += [data.getVar(name) or "" for name in ("S", "B", "UNPACKDIR")]
    for task in tasks:
        if task == "do_rootfs" or data.getVarFlag(task, "noexec"):
            continue
        outputs = words(data.getVarFlag(task, "sstate-outputdirs")) + words(
            data.getVarFlag(task, "sstate-plaindirs")
        )
        candidates += [path for path in words(data.getVarFlag(task, "cleandirs")) if path not in outputs]
    found = {
        relative(path)
        for path in candidates
        if path.startswith(temporary)
        and work_directory
        and not (os.path.normpath(path) + "/").startswith(os.path.normpath(work_directory) + "/")
    }
    return sorted(path for path in found if not any(path.startswith(f"{other}/") for other in found))


def published_paths(data: Any, task: str, outputs: list[str], plain: list[str]) -> list[str]:
    """What a task leaves outside its WORKDIR for others."""
    work_directory = os.path.normpath(data.getVar("WORKDIR") or "/nonexistent") + "/"
    published = [path for path in outputs if path]
    published += [path for path in plain if not (os.path.normpath(path) + "/").startswith(work_directory)]
    if outputs or plain or task in words(data.getVar("SSTATETASKS")):
        manifest = sstate_manifest(data, task)
        if manifest:
            published.append(manifest)
    paths = [relative(path) for path in published]
    if task == "do_fetch" and any(not uri.startswith("file://") for uri in words(data.getVar("SRC_URI"))):
        # All of it: the sandbox's DL_DIR holds this recipe's downloads only, in whatever form its fetchers need.
        paths.append(relative(data.getVar("DL_DIR") or "/work/downloads"))
    return sorted(set(paths))


def sstate_manifest(data: Any, task: str) -> str:
    """As oe.sstatesig.sstate_get_manifest_filename computes it."""
    if not data.getVar("SSTATE_MANFILEPREFIX", False):
        return ""
    machine = data.getVarFlag(task, "stamp-extra-info")
    if machine:
        data = data.createCopy()
        data.setVar("SSTATE_MANMACH", machine)
    return data.expand("${SSTATE_MANFILEPREFIX}." + task[3:])


def task_functions(data: Any, task: str) -> list[str]:
    """The functions that a task runs, as far as they are named literally."""
    todo = [
        task,
        *words(data.getVarFlag(task, "prefuncs")),
        *words(data.getVarFlag(task, "postfuncs")),
    ]
    seen: list[str] = []
    while todo:
        function = todo.pop(0)
        if function not in seen:
            seen.append(function)
            todo += EXECUTED_FUNCTION.findall(data.getVar(function, False) or "")
    return seen


def runs_function(data: Any, task: str, function: str) -> bool:
    return function in task_functions(data, task)


def reads_dependency_data(data: Any, cache: Any, key: str, task: str) -> bool:
    """Whether code of the task mentions BB_TASKDEPDATA, be it through modules of the layers."""
    names = set(task_functions(data, task))
    dependencies = cache.siggen_taskdeps.get(key, {}).get(task) if hasattr(cache, "siggen_taskdeps") else None
    names.update(dependencies or [])
    for name in names:
        entry = bb.codeparser.modulecode_deps.get(name)
        if entry is not None:
            if "BB_TASKDEPDATA" in entry[0]:
                return True
        elif data.getVarFlag(name, "func", False) and "BB_TASKDEPDATA" in (data.getVar(name, False) or ""):
            return True
    return False
