# SPDX-License-Identifier: GPL-2.0-only
"""Selection of visible results, on small graphs."""

from __future__ import annotations

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "exporter"))

from components import ComponentSelection, Node

SYSROOT = "do_populate_sysroot"


class Graph:
    """Builder of a graph: tasks by "recipe:task", added in topological order."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.names: list[str] = []

    def add(self, name: str, *dependencies: str, **flags: bool) -> None:
        recipe, task = name.split(":")
        recipes = sorted({known.split(":")[0] for known in [*self.names, name]}, key=self._first)
        node = Node(
            recipe=recipes.index(recipe),
            package_name=recipe,
            name=task,
            multiconfig="",
            dependencies=tuple(self.names.index(dependency) for dependency in dependencies),
            shared=flags.get("shared", task == SYSROOT),
            noexec=flags.get("noexec", False),
            extends_sysroot=flags.get("extends_sysroot", False),
            shares_work_tree=flags.get("shares_work_tree", False),
            stays_visible=flags.get("stays_visible", False),
            provides_fakeroot=flags.get("provides_fakeroot", False),
        )
        self.nodes.append(node)
        self.names.append(name)

    def _first(self, recipe: str) -> int:
        firsts = [index for index, name in enumerate(self.names) if name.split(":")[0] == recipe]
        return firsts[0] if firsts else len(self.names)

    def components(self, name: str, unneeded: set[tuple[str, str]] | None = None) -> set[str]:
        def is_unneeded(dependent: Node, dependency: Node) -> bool:
            return (dependent.package_name, dependency.package_name) in (unneeded or set())

        selection = ComponentSelection(self.nodes, {SYSROOT}, is_unneeded)
        return {self.names[index] for index in selection.components(self.names.index(name))}

    def foreign(self, name: str) -> set[str]:
        selection = ComponentSelection(self.nodes, {SYSROOT}, None)
        return {self.names[index] for index in selection.foreign_work_trees(self.names.index(name))}


def chain() -> Graph:
    """app depends on lib, lib depends on base; each has a private task before the one that publishes."""
    graph = Graph()
    graph.add("base:do_compile")
    graph.add(f"base:{SYSROOT}", "base:do_compile")
    graph.add("lib:do_configure", f"base:{SYSROOT}", extends_sysroot=True)
    graph.add("lib:do_compile", "lib:do_configure")
    graph.add(f"lib:{SYSROOT}", "lib:do_compile")
    graph.add("app:do_prepare", f"lib:{SYSROOT}")
    graph.add("app:do_configure", "app:do_prepare", extends_sysroot=True)
    graph.add("app:do_compile", "app:do_configure")
    return graph


class Components(unittest.TestCase):
    def test_direct_and_indirect_results_are_visible(self) -> None:
        both = {f"lib:{SYSROOT}", f"base:{SYSROOT}"}
        self.assertEqual(chain().components("app:do_prepare"), both)
        # Through a private task of its own recipe, because the metadata installs dependencies here too.
        self.assertEqual(chain().components("app:do_configure"), both)

    def test_a_private_task_sees_no_results(self) -> None:
        self.assertEqual(chain().components("app:do_compile"), set())

    def test_metadata_excludes_indirect_results_only(self) -> None:
        unneeded = {("lib", "base"), ("app", "lib")}
        self.assertEqual(chain().components("app:do_prepare", unneeded), {f"lib:{SYSROOT}"})

    def test_results_behind_an_unneeded_one_are_visible(self) -> None:
        graph = chain()
        graph.add(f"app:{SYSROOT}", "app:do_compile", f"lib:{SYSROOT}")
        graph.add("image:do_prepare", f"app:{SYSROOT}")
        found = graph.components("image:do_prepare", {("app", "lib")})
        self.assertEqual(found, {f"app:{SYSROOT}", f"base:{SYSROOT}"})

    def test_noexec_tasks_have_no_results_and_see_none(self) -> None:
        graph = Graph()
        graph.add(f"lib:{SYSROOT}")
        graph.add("lib:do_build", f"lib:{SYSROOT}", noexec=True)
        graph.add("app:do_prepare", "lib:do_build")
        self.assertEqual(graph.components("lib:do_build"), set())
        self.assertEqual(graph.components("app:do_prepare"), {f"lib:{SYSROOT}"})
        self.assertEqual(graph.foreign("app:do_prepare"), set())

    def test_results_behind_other_shared_tasks_are_visible(self) -> None:
        graph = Graph()
        graph.add(f"lib:{SYSROOT}")
        graph.add("kernel:do_shared_workdir", f"lib:{SYSROOT}", shared=True)
        graph.add("module:do_prepare", "kernel:do_shared_workdir")
        self.assertEqual(
            graph.components("module:do_prepare"), {"kernel:do_shared_workdir", f"lib:{SYSROOT}"}
        )

    def test_unpack_sees_its_own_downloads(self) -> None:
        graph = Graph()
        graph.add("lib:do_fetch")
        graph.add("lib:do_unpack", "lib:do_fetch")
        self.assertEqual(graph.components("lib:do_unpack"), {"lib:do_fetch"})

    def test_results_outside_of_sysroots_stay_visible(self) -> None:
        graph = Graph()
        graph.add("loader:do_deploy", shared=True, stays_visible=True)
        graph.add(f"lib:{SYSROOT}")
        graph.add("image:do_rootfs", "loader:do_deploy", f"lib:{SYSROOT}")
        graph.add("image:do_image", "image:do_rootfs")
        graph.add("image:do_complete", "image:do_image")
        self.assertEqual(graph.components("image:do_complete"), {"loader:do_deploy"})


class FakerootProgram(unittest.TestCase):
    def test_later_tasks_see_the_program_of_an_earlier_one(self) -> None:
        graph = Graph()
        graph.add(f"sqlite:{SYSROOT}")
        graph.add(f"pseudo:{SYSROOT}", f"sqlite:{SYSROOT}", provides_fakeroot=True)
        graph.add("lib:do_install", f"pseudo:{SYSROOT}")
        graph.add("lib:do_multilib", "lib:do_install")
        self.assertEqual(graph.components("lib:do_multilib"), {f"pseudo:{SYSROOT}"})

    def test_a_program_without_dependents_is_not_visible(self) -> None:
        graph = Graph()
        graph.add(f"pseudo:{SYSROOT}", provides_fakeroot=True)
        graph.add("lib:do_install")
        self.assertEqual(graph.components("lib:do_install"), set())


class ForeignWorkTrees(unittest.TestCase):
    @staticmethod
    def graph() -> Graph:
        graph = Graph()
        graph.add("source:do_unpack")
        graph.add("source:do_patch", "source:do_unpack")
        graph.add("compiler:do_configure", "source:do_patch")
        graph.add("compiler:do_compile", "compiler:do_configure")
        return graph

    def test_later_tasks_of_the_recipe_get_them_too(self) -> None:
        for task in ("do_configure", "do_compile"):
            self.assertEqual(self.graph().foreign(f"compiler:{task}"), {"source:do_patch"})

    def test_other_recipes_behind_the_compiler_do_not(self) -> None:
        graph = self.graph()
        graph.add(f"compiler:{SYSROOT}", "compiler:do_compile")
        graph.add("app:do_configure", f"compiler:{SYSROOT}")
        self.assertEqual(graph.foreign("app:do_configure"), set())

    def test_a_task_that_does_nothing_passes_them_on(self) -> None:
        graph = self.graph()
        graph.add("compiler:do_nothing", "compiler:do_configure", noexec=True)
        graph.add("compiler:do_install", "compiler:do_nothing")
        self.assertEqual(graph.foreign("compiler:do_nothing"), set())
        self.assertEqual(graph.foreign("compiler:do_install"), {"source:do_patch"})

    def test_only_the_latest_of_a_chain_counts(self) -> None:
        graph = self.graph()
        graph.add("runtime:do_license", "source:do_unpack")
        graph.add("runtime:do_configure", "runtime:do_license", "source:do_patch")
        self.assertEqual(graph.foreign("runtime:do_license"), {"source:do_unpack"})
        self.assertEqual(graph.foreign("runtime:do_configure"), {"source:do_patch"})

    def test_both_of_two_parallel_tasks_count(self) -> None:
        graph = self.graph()
        graph.add("source:do_epoch", "source:do_unpack", shared=True, shares_work_tree=True)
        graph.add("runtime:do_configure", "source:do_patch", "source:do_epoch")
        self.assertEqual(graph.foreign("runtime:do_configure"), {"source:do_patch", "source:do_epoch"})

    def test_a_shared_task_counts_if_it_shares_its_work_tree(self) -> None:
        for shares in (True, False):
            graph = Graph()
            graph.add("source:do_epoch", shared=True, shares_work_tree=shares)
            graph.add("compiler:do_epoch", "source:do_epoch")
            self.assertEqual(graph.foreign("compiler:do_epoch"), {"source:do_epoch"} if shares else set())


if __name__ == "__main__":
    unittest.main()
