# SPDX-License-Identifier: GPL-2.0-only
"""Selection of the results of other tasks that each task can see.

BitBake has one TMPDIR with everything that was ever built; a convention decides what a task may use of it. Here a task
gets exactly the results that the convention covers, as a function of the task graph alone:

* Its direct shared-state dependencies, and those that the metadata's own BB_SETSCENE_DEPVALID function keeps on the
  way through their dependencies. OE's extend_recipe_sysroot and package_prepare_pkgdata continue through dependencies
  that are not kept, so this walk does too.
* Work trees of other recipes on which it depends, or on which an earlier task of its recipe depends: gcc-cross depends
  on gcc-source in do_configure alone, and reads it in do_compile.
* Results that earlier tasks of its recipe saw in shared directories other than the sysroots (a deploy directory).
* The fakeroot program on which an earlier task of its recipe depends. Not for fakeroot tasks alone: OE's
  do_flush_pseudodb calls it by its path.

Computed once for all tasks: tasks that are not shared are collapsed, the metadata's function is called once for every
remaining edge, and the closures are bit sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# staging.bbclass (extend_recipe_sysroot) adds these to SSTATETASKS, because setscene_depvalid names them.
ALSO_SHARED = frozenset({"do_stash_locale", "do_deploy"})


@dataclass(frozen=True)
class Node:
    """The properties of a task that the selection uses."""

    recipe: int
    package_name: str
    name: str
    multiconfig: str
    dependencies: tuple[int, ...]
    # True if it publishes results (sstate directories).
    shared: bool
    noexec: bool
    # True if it runs the function that installs dependencies into the recipe's sysroot.
    extends_sysroot: bool
    # True if it publishes directories in its own recipe's work tree, where dependents read them (sstate-plaindirs).
    shares_work_tree: bool = False
    # True if it publishes outside of the sysroots, where later tasks of a dependent's recipe still see the results.
    stays_visible: bool = False
    # True if it publishes the program in some recipe's FAKEROOTCMD.
    provides_fakeroot: bool = False


# Predicate of (dependent, dependency): True if the dependency may be left out.
IsUnneeded = Callable[[Node, Node], bool]


def bits(mask: int) -> Iterator[int]:
    """Yields the indices of the bits that are set."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def mask_of(nodes: Iterable[Node], is_wanted: Callable[[Node], bool]) -> int:
    """Bit set of the indices of the wanted nodes."""
    mask = 0
    for index, node in enumerate(nodes):
        if is_wanted(node):
            mask |= 1 << index
    return mask


class ComponentSelection:
    """Selection for one graph. `nodes` are in topological order: dependencies have smaller indices.

    All lists below have one bit set of task indices per task.
    """

    def __init__(
        self, nodes: list[Node], shared_names: Iterable[str], is_unneeded: IsUnneeded | None
    ) -> None:
        self.nodes = nodes
        self.shared_names = frozenset(shared_names) | ALSO_SHARED
        self.is_unneeded = is_unneeded
        self._unneeded: dict[tuple[str, str, str, str, str], bool] = {}
        # Shared tasks among its dependencies, or reached through dependencies that are not shared.
        self._collapsed = [0] * len(nodes)
        # For shared tasks only: the tasks kept of all that are reached through it.
        self._kept = [0] * len(nodes)
        # The task itself and the earlier tasks of its recipe.
        self._own_recipe = [0] * len(nodes)
        # Tasks of other recipes on whose work trees it or an earlier task of its recipe depends.
        self._foreign = [0] * len(nodes)
        self._stays_visible = mask_of(nodes, lambda node: node.stays_visible)
        self._fakeroot_providers = mask_of(nodes, lambda node: node.provides_fakeroot)
        # Providers of fakeroot programs on which it or an earlier task of its recipe depends.
        self._fakeroot = [0] * len(nodes)
        # Tasks whose published results it sees.
        self._components = [0] * len(nodes)
        for index, node in enumerate(nodes):
            self._collapsed[index] = self._collapsed_of(node)
            if node.shared:
                self._kept[index] = self._kept_of(index, node)
            self._own_recipe[index] = self._own_recipe_of(index, node)
            self._foreign[index] = self._foreign_of(node)
            self._fakeroot[index] = self._fakeroot_of(index, node)
            self._components[index] = self._components_of(index, node)

    def _collapsed_of(self, node: Node) -> int:
        mask = 0
        for dependency in node.dependencies:
            other = self.nodes[dependency]
            if other.multiconfig != node.multiconfig:
                continue
            if other.shared:
                mask |= 1 << dependency
            if not other.shared or other.name not in self.shared_names:
                mask |= self._collapsed[dependency]
        return mask

    def _kept_of(self, index: int, node: Node) -> int:
        mask = 0
        for dependency in bits(self._collapsed[index]):
            mask |= self._kept[dependency]
            if not self._can_leave_out(node, self.nodes[dependency]):
                mask |= 1 << dependency
        return mask

    def _own_dependencies(self, node: Node) -> Iterator[int]:
        return (item for item in node.dependencies if self.nodes[item].recipe == node.recipe)

    def _own_recipe_of(self, index: int, node: Node) -> int:
        mask = 1 << index
        for dependency in self._own_dependencies(node):
            mask |= self._own_recipe[dependency]
        return mask

    def _foreign_of(self, node: Node) -> int:
        mask = 0
        for dependency in node.dependencies:
            other = self.nodes[dependency]
            if other.recipe == node.recipe:
                mask |= self._foreign[dependency]
            elif not other.noexec and (not other.shared or other.shares_work_tree):
                mask |= 1 << dependency
        return mask

    def _components_of(self, index: int, node: Node) -> int:
        mask = self._direct_components_of(index, node)
        for dependency in self._own_dependencies(node):
            mask |= self._components[dependency] & self._stays_visible
        return mask | self._fakeroot[index]

    def _fakeroot_of(self, index: int, node: Node) -> int:
        mask = self._collapsed[index] & self._fakeroot_providers
        for dependency in self._own_dependencies(node):
            mask |= self._fakeroot[dependency]
        return mask

    def _can_leave_out(self, dependent: Node, dependency: Node) -> bool:
        if self.is_unneeded is None:
            return False
        key = (
            dependent.multiconfig,
            dependent.package_name,
            dependent.name,
            dependency.package_name,
            dependency.name,
        )
        known = self._unneeded.get(key)
        if known is None:
            known = self._unneeded[key] = self.is_unneeded(dependent, dependency)
        return known

    def components(self, index: int) -> list[int]:
        """Tasks whose published paths task `index` sees."""
        if self.nodes[index].noexec:
            return []
        return [item for item in bits(self._components[index]) if not self.nodes[item].noexec]

    def _direct_components_of(self, index: int, node: Node) -> int:
        mask = 0
        for dependency in self._own_downloads(node):
            mask |= 1 << dependency
        if node.extends_sysroot or self._has_published_dependency(node):
            for dependency in bits(self._collapsed[index]):
                mask |= 1 << dependency | self._kept[dependency]
            # Dependencies on other configurations (mcdepends) are direct by definition.
            for dependency in node.dependencies:
                other = self.nodes[dependency]
                if other.shared and other.multiconfig != node.multiconfig:
                    mask |= 1 << dependency
        return mask

    def _own_downloads(self, node: Node) -> Iterator[int]:
        if node.name == "do_unpack":
            for dependency in node.dependencies:
                other = self.nodes[dependency]
                if other.recipe == node.recipe and other.name == "do_fetch":
                    yield dependency

    def _has_published_dependency(self, node: Node) -> bool:
        """True if the metadata makes this very task depend on published results.

        A task that depends only on private tasks of its own recipe (compile after configure) works on their trees.
        """
        return any(
            self.nodes[dependency].recipe != node.recipe or self.nodes[dependency].shared
            for dependency in node.dependencies
        )

    def foreign_work_trees(self, index: int) -> list[int]:
        """Tasks of other recipes whose private trees task `index` sees.

        Of several tasks of one recipe only the latest, whose trees include the trees of the earlier ones.
        """
        if self.nodes[index].noexec:
            return []
        foreign = self._foreign[index]
        superseded = 0
        for item in bits(foreign):
            superseded |= self._own_recipe[item] & ~(1 << item)
        return list(bits(foreign & ~superseded))
