# SPDX-License-Identifier: GPL-2.0-only
"""Which results of other tasks a task can see.

BitBake keeps one TMPDIR in which everything lies that was ever built; what a task may use of it is a convention. Here
a task gets what that convention covers, as a function of the task graph alone:

* Its direct shared-state dependencies, and those that the metadata's own BB_SETSCENE_DEPVALID function keeps on the
  way through their dependencies. OE's extend_recipe_sysroot and package_prepare_pkgdata walk on through dependencies
  that are not kept, so this walk does too.
* Work trees of other recipes that it names, or that an earlier task of its recipe named: gcc-cross names gcc-source
  in do_configure alone, and reads it in do_compile.
* What earlier tasks of its recipe saw in shared places other than the sysroots (a deploy directory).
* The fakeroot program that an earlier task of its recipe asked for. Not for fakeroot tasks alone: OE's
  do_flush_pseudodb calls it by its path.

Computed once for all tasks: the tasks that are not shared are collapsed, every remaining edge is asked once, and the
closures are taken over bit sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# staging.bbclass (extend_recipe_sysroot) adds these to SSTATETASKS, because setscene_depvalid names them.
ALSO_SHARED = frozenset({"do_stash_locale", "do_deploy"})


@dataclass(frozen=True)
class Node:
    """A task, as far as the selection looks at it."""

    recipe: int
    package_name: str
    name: str
    multiconfig: str
    dependencies: tuple[int, ...]
    # It publishes results for others (sstate directories).
    shared: bool
    noexec: bool
    # It runs the function that installs dependencies into the recipe's sysroot.
    extends_sysroot: bool
    # It shares directories that lie in its own recipe's work tree, where dependents read them (sstate-plaindirs).
    shares_work_tree: bool = False
    # It publishes outside of the sysroots, where later tasks of a dependent's recipe still find it.
    stays_visible: bool = False
    # It publishes the program that FAKEROOTCMD of some recipe names.
    provides_fakeroot: bool = False


# (dependent, dependency) -> whether the dependency may be left out
IsUnneeded = Callable[[Node, Node], bool]


def bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def mask_of(nodes: Iterable[Node], is_wanted: Callable[[Node], bool]) -> int:
    mask = 0
    for index, node in enumerate(nodes):
        if is_wanted(node):
            mask |= 1 << index
    return mask


class ComponentSelection:
    """Answers for one graph. `nodes` are in topological order: dependencies have smaller indices."""

    def __init__(
        self, nodes: list[Node], shared_names: Iterable[str], is_unneeded: IsUnneeded | None
    ) -> None:
        self.nodes = nodes
        self.shared_names = frozenset(shared_names) | ALSO_SHARED
        self.is_unneeded = is_unneeded
        self._unneeded: dict[tuple[str, str, str, str, str], bool] = {}
        # For each task: the shared tasks that its dependencies are, or lead to through tasks that are not shared.
        self._collapsed = [0] * len(nodes)
        # For each shared task: what is kept of all that it leads to.
        self._kept = [0] * len(nodes)
        # For each task: itself and what comes before it in its recipe.
        self._own = [0] * len(nodes)
        # For each task: the tasks of other recipes whose work trees it or an earlier task of its recipe names.
        self._foreign = [0] * len(nodes)
        self._staying = mask_of(nodes, lambda node: node.stays_visible)
        self._fakeroot_providers = mask_of(nodes, lambda node: node.provides_fakeroot)
        # For each task: the fakeroot programs that it or an earlier task of its recipe asked for.
        self._fakeroot = [0] * len(nodes)
        # For each task: what it sees in shared places.
        self._components = [0] * len(nodes)
        for index, node in enumerate(nodes):
            self._collapsed[index] = self._collapse(node)
            if node.shared:
                self._kept[index] = self._keep(index, node)
            self._own[index] = self._follow_own(index, node)
            self._foreign[index] = self._name_foreign(node)
            self._fakeroot[index] = self._ask_for_fakeroot(index, node)
            self._components[index] = self._see(index, node)

    def _collapse(self, node: Node) -> int:
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

    def _keep(self, index: int, node: Node) -> int:
        mask = 0
        for dependency in bits(self._collapsed[index]):
            mask |= self._kept[dependency]
            if not self._can_leave_out(node, self.nodes[dependency]):
                mask |= 1 << dependency
        return mask

    def _own_dependencies(self, node: Node) -> Iterator[int]:
        return (item for item in node.dependencies if self.nodes[item].recipe == node.recipe)

    def _follow_own(self, index: int, node: Node) -> int:
        mask = 1 << index
        for dependency in self._own_dependencies(node):
            mask |= self._own[dependency]
        return mask

    def _name_foreign(self, node: Node) -> int:
        mask = 0
        for dependency in node.dependencies:
            other = self.nodes[dependency]
            if other.recipe == node.recipe:
                mask |= self._foreign[dependency]
            elif not other.noexec and (not other.shared or other.shares_work_tree):
                mask |= 1 << dependency
        return mask

    def _see(self, index: int, node: Node) -> int:
        mask = self._see_directly(index, node)
        for dependency in self._own_dependencies(node):
            mask |= self._components[dependency] & self._staying
        return mask | self._fakeroot[index]

    def _ask_for_fakeroot(self, index: int, node: Node) -> int:
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
        """The tasks whose published paths task `index` gets."""
        if self.nodes[index].noexec:
            return []
        return [item for item in bits(self._components[index]) if not self.nodes[item].noexec]

    def _see_directly(self, index: int, node: Node) -> int:
        mask = 0
        for dependency in self._own_downloads(node):
            mask |= 1 << dependency
        if node.extends_sysroot or self._reaches_out(node):
            for dependency in bits(self._collapsed[index]):
                mask |= 1 << dependency | self._kept[dependency]
            # Results of other configurations (mcdepends) are direct by definition.
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

    def _reaches_out(self, node: Node) -> bool:
        """Whether the metadata makes this very task depend on published results.

        A task that only follows its own recipe's private tasks (compile after configure) works on what they left.
        """
        return any(
            self.nodes[dependency].recipe != node.recipe or self.nodes[dependency].shared
            for dependency in node.dependencies
        )

    def foreign_work_trees(self, index: int) -> list[int]:
        """The tasks of other recipes whose private trees task `index` works in.

        Of several tasks of one recipe the later ones, whose trees hold what the earlier ones left.
        """
        if self.nodes[index].noexec:
            return []
        named = self._foreign[index]
        superseded = 0
        for item in bits(named):
            superseded |= self._own[item] & ~(1 << item)
        return list(bits(named & ~superseded))
