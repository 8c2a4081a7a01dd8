# SPDX-License-Identifier: GPL-2.0-only
"""Conversion of BitBake's run queue into the task graph (proto/protos/bitzel/graph/v1/graph.proto)."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Any

import bb
import bb.runqueue
import bb.utils
from components import ComponentSelection, Node
from cooker import Cooker
from event_handlers import unfired_handlers, waits_for_end
from metadata_values import Document, relative, words
from recipes import RecipeExporter

# Raised when a field of the graph changes; the same number as GRAPH_FORMAT_VERSION in graph_cache.rs.
FORMAT_VERSION = 5


def topological_order(entries: dict[str, Any]) -> list[str]:
    """Task ids, dependencies first; ties are ordered by name, so that a graph always has the same indices."""
    missing = {tid: len(entry.depends) for tid, entry in entries.items()}
    dependents: dict[str, list[str]] = {tid: [] for tid in entries}
    for tid, entry in entries.items():
        for dependency in entry.depends:
            dependents[dependency].append(tid)
    ready = [tid for tid, count in missing.items() if count == 0]
    heapq.heapify(ready)
    order = []
    while ready:
        tid = heapq.heappop(ready)
        order.append(tid)
        for dependent in dependents[tid]:
            missing[dependent] -= 1
            if missing[dependent] == 0:
                heapq.heappush(ready, dependent)
    return order


def unneeded_by_metadata(cooker: Cooker, function: str) -> Callable[[Node, Node], bool]:
    """Predicate that calls the metadata's BB_SETSCENE_DEPVALID function for one edge, as staging.bbclass does."""
    stores = {name: bb.data.createCopy(data) for name, data in cooker.data_builder.mcdata.items()}
    expression = f"{function}(task, dependees, [], d, [])"

    def is_unneeded(dependent: Node, dependency: Node) -> bool:
        dependees = {
            "dependent": [dependent.package_name, dependent.name],
            "dependency": [dependency.package_name, dependency.name],
        }
        variables = {"task": "dependency", "dependees": dependees, "d": stores[dependent.multiconfig]}
        return bool(bb.utils.better_eval(expression, variables))

    return is_unneeded


def enclosing_directories(commands: Iterable[str]) -> set[str]:
    """All parent directories of the programs in FAKEROOTCMD values, each with a slash at its end."""
    directories = set()
    for program in {command.split()[0] for command in commands if command.split()}:
        parent = relative(program).rpartition("/")[0]
        while parent:
            directories.add(f"{parent}/")
            parent = parent.rpartition("/")[0]
    return directories


def build(cooker: Cooker, exporter: RecipeExporter, queue: Any, report: Callable[[str], None]) -> Document:
    """The TaskGraph message as JSON; reports each phase."""
    entries = queue.runtaskentries
    order = topological_order(entries)
    index_of = {tid: index for index, tid in enumerate(order)}
    split = {tid: bb.runqueue.split_tid_mcfn(tid) for tid in order}
    recipe_keys = sorted({parts[3] for parts in split.values()})
    report("recipes")
    recipes = exporter.export(recipe_keys)
    report("graph")
    recipe_index = {key: index for index, key in enumerate(recipe_keys)}
    signatures = bb.parse.siggen
    setscene = queue.runq_setscene_tids

    fakeroot_directories = enclosing_directories(
        recipe["recipe"]["fakeroot_command"] for recipe in recipes.values()
    )

    tasks: list[Document] = []
    nodes: list[Node] = []
    for tid in order:
        multiconfig, _, name, key = split[tid]
        entry = entries[tid]
        document = dict(recipes[key]["tasks"][name])
        extends_sysroot = document.pop("extends_sysroot", False)
        published = document.get("published_paths", [])
        nodes.append(
            Node(
                recipe=recipe_index[key],
                package_name=recipes[key]["recipe"]["package_name"],
                name=name,
                multiconfig=multiconfig,
                dependencies=tuple(sorted(index_of[dependency] for dependency in entry.depends)),
                shared=bool(
                    document.get("sstate_directories")
                    or document.get("sstate_plain_directories")
                    or tid in setscene
                ),
                noexec=document.get("noexec", False),
                extends_sysroot=extends_sysroot,
                shares_work_tree=document.pop("shares_work_tree", False),
                stays_visible=document.pop("stays_visible", False),
                provides_fakeroot=any(f"{path}/" in fakeroot_directories for path in published),
            )
        )
        document.update(
            recipe=recipe_index[key],
            name=name,
            taskhash=entry.hash,
            unihash=entry.unihash,
            basehash=signatures.basehash[tid],
            dependencies=list(nodes[-1].dependencies),
            # Sorted as SignatureGeneratorBasic.get_taskhash sorts them: by (recipe name, task id).
            hash_dependencies=[index_of[tid] for _, tid in sorted(signatures.runtaskdeps[tid])],
            file_checksums=file_checksums(signatures.file_checksum_values[tid]),
            taint=signatures.taints.get(tid, ""),
            setscene=tid in setscene,
            setscene_dependencies=setscene_dependencies(queue, tid, index_of) if tid in setscene else [],
            taskhash_dependencies=sorted(entry.taskhash_deps or ()),
        )
        tasks.append(document)

    report("components")
    select_components(cooker, nodes, tasks)
    targets = {index_of[tid] for tid in queue.target_tids if tid in index_of}
    if not targets:
        # --runonly drops the targets' own tasks; the targets are then the tasks without dependents.
        targets = set(range(len(nodes))) - {item for node in nodes for item in node.dependencies}
    return {
        "format_version": FORMAT_VERSION,
        "bitbake_version": bb.__version__,
        "settings": settings(cooker, exporter),
        "recipes": [recipes[key]["recipe"] for key in recipe_keys],
        "tasks": tasks,
        "targets": sorted(targets),
    }


def setscene_dependencies(queue: Any, tid: str, index_of: dict[str, int]) -> list[int]:
    """Tasks in the [depends] of a setscene task, as bb.runqueue.build_scenequeue_data finds them."""
    multiconfig, _, name, key = bb.runqueue.split_tid_mcfn(tid)
    task_data = queue.taskData[multiconfig]
    entry = task_data.taskentries[f"{key}:{name}_setscene"]
    needed = set()
    for dependency, task in entry.idepends:
        for provider in task_data.build_targets.get(dependency) or []:
            needed.add(f"{provider}:{task.removesuffix('_setscene')}")
    return sorted(index_of[item] for item in needed if item in index_of)


def file_checksums(values: list[tuple[str, str | None]]) -> list[Document]:
    """File checksums in the order in which BitBake hashes them: by path, or by the part after "/./" if it has one."""

    def hashed_path(pair: tuple[str, str | None]) -> Any:
        return bb.siggen.clean_checksum_file_path(pair)

    return [{"path": path, "checksum": checksum or ""} for path, checksum in sorted(values, key=hashed_path)]


def select_components(cooker: Cooker, nodes: list[Node], tasks: list[Document]) -> None:
    """Adds to each task the tasks whose published paths and work trees it can see."""
    data = cooker.cooker.data
    function = data.getVar("BB_SETSCENE_DEPVALID")
    selection = ComponentSelection(
        nodes,
        words(data.getVar("SSTATETASKS")) if function else {node.name for node in nodes},
        unneeded_by_metadata(cooker, function) if function else None,
    )
    for index, document in enumerate(tasks):
        document["components"] = selection.components(index)
        document["foreign_work_trees"] = selection.foreign_work_trees(index)


def settings(cooker: Cooker, exporter: RecipeExporter) -> Document:
    """The Settings message as JSON."""
    data = cooker.cooker.data

    def path(variable: str, data: Any = data) -> str:
        value = data.getVar(variable)
        return relative(value) if value else ""

    return {
        "build_name": cooker.build_name,
        "date": cooker.date,
        "time": cooker.time,
        "default_umask": data.getVar("BB_DEFAULT_UMASK") or "",
        "directories": [
            {"multiconfig": name, "temporary": path("TMPDIR", of), "deploy": path("DEPLOY_DIR", of)}
            for name, of in sorted(cooker.data_builder.mcdata.items())
        ],
        "download_directory": path("DL_DIR"),
        "base_snapshots": [exporter.base_snapshots[name] for name in sorted(exporter.base_snapshots)],
        "unfired_handlers": unfired_handlers(data),
        "has_completion_handlers": waits_for_end(data),
        "shared_state_mirrors": data.getVar("BITZEL_SSTATE_MIRRORS") or "",
        "overlap_allowed": [
            relative(pattern) for pattern in words(data.getVar("SSTATE_ALLOW_OVERLAP_FILES"))
        ],
    }
