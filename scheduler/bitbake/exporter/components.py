# SPDX-License-Identifier: GPL-2.0-only
"""Which results of other tasks a task can see.

BitBake restores, and OE's staging.bbclass installs, a task's *direct* shared-state dependencies and those of their
dependencies that the metadata's own BB_SETSCENE_DEPVALID function keeps. That is a function of the task graph
alone, so it is computed here once for all tasks: the non-shared-state tasks are collapsed, every remaining edge is
asked once, and the closure is taken over bit sets.
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


# (dependent, dependency) -> whether the dependency may be left out
IsUnneeded = Callable[[Node, Node], bool]


def bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


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
        # For each shared task: all that is visible through it.
        self._visible = [0] * len(nodes)
        for index, node in enumerate(nodes):
            self._collapsed[index] = self._collapse(node)
            if node.shared:
                self._visible[index] = self._look_through(index, node)

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

    def _look_through(self, index: int, node: Node) -> int:
        mask = 1 << index
        for dependency in bits(self._collapsed[index]):
            if not self._can_leave_out(node, self.nodes[dependency]):
                mask |= self._visible[dependency]
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
        node = self.nodes[index]
        if node.noexec:
            return []
        chosen = set(self._own_downloads(node))
        if node.extends_sysroot or self._reaches_out(node):
            for dependency in bits(self._collapsed[index]):
                chosen.update(bits(self._visible[dependency]))
            # Results of other configurations (mcdepends) are direct by definition.
            chosen.update(
                dependency
                for dependency in node.dependencies
                if self.nodes[dependency].shared and self.nodes[dependency].multiconfig != node.multiconfig
            )
        return sorted(item for item in chosen if not self.nodes[item].noexec)

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
        """The tasks of other recipes whose private trees task `index` works in."""
        node = self.nodes[index]
        if node.noexec:
            return []
        return sorted(
            dependency
            for dependency in node.dependencies
            if self.nodes[dependency].recipe != node.recipe
            and not self.nodes[dependency].shared
            and not self.nodes[dependency].noexec
        )
