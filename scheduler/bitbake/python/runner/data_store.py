# SPDX-License-Identifier: GPL-2.0-only
"""Snapshots of BitBake's data stores as JSON.

A snapshot holds the state of a data store (variables, flags, overrides) and not its history: no modification times,
nothing of the machine that made it. The same metadata gives the same bytes everywhere.

Two layers make one data store: the base (everything that the configuration sets, common to the recipes of one
multiconfig) and the recipe (everything that differs from the base).
"""

from __future__ import annotations

import copy
import json
from typing import Any

import task_releases

FORMAT_VERSION = 1

# Variables that only explain the data store, or that only the parser reads.
EXCLUDED_VARIABLES = frozenset(
    {
        "__depends",
        "__base_depends",
        "__siggen_basehashes",
        "__siggen_gendeps",
        "__siggen_varvals",
        "__siggen_taskdeps",
        "__BBDEFINHERITS",
        "__BBANONFUNCS",
        "BB_ORIGENV",
        "BB_CMDLINE",
        "BB_TASKDEPDATA",
        "BITZEL_SSTATE_MIRRORS",
        "_SSTATE_EXCLUDEDEPS_SYSROOT",
    }
)

Flags = dict[str, Any]


class NotRepresentable(Exception):
    """Raised for a value in a data store that has no JSON form."""


def _is_plain(value: Any) -> bool:
    if value is None or isinstance(value, (str, int, bool, float)):
        return True
    return isinstance(value, list) and all(_is_plain(item) for item in value)


def _tag(value: Any) -> Any:
    """JSON form from which `_untag` makes an equal value of the same type."""
    if value is None or isinstance(value, (str, int, bool, float)):
        return value
    if isinstance(value, list):
        return [_tag(item) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_tag(item) for item in value]}
    if isinstance(value, frozenset):
        return {"frozenset": sorted((_tag(item) for item in value), key=json.dumps)}
    if isinstance(value, set):
        return {"set": sorted((_tag(item) for item in value), key=json.dumps)}
    if isinstance(value, dict):
        # Pairs: readers see the order of a dictionary.
        return {"dict": [[_tag(key), _tag(item)] for key, item in value.items()]}
    raise NotRepresentable(type(value).__name__)


def _untag(value: Any) -> Any:
    """Inverse of `_tag`."""
    if isinstance(value, list):
        return [_untag(item) for item in value]
    if isinstance(value, dict):
        ((kind, items),) = value.items()
        if kind == "tuple":
            return tuple(_untag(item) for item in items)
        if kind == "frozenset":
            return frozenset(_untag(item) for item in items)
        if kind == "set":
            return {_untag(item) for item in items}
        if kind == "dict":
            return {_untag(key): _untag(item) for key, item in items}
        raise ValueError(f"unknown tag {kind!r} in a data store snapshot")
    return value


def flatten(data: Any) -> dict[str, Flags]:
    """All variables of a data store with their flags, from all copy-on-write layers.

    Deleted variables (empty entries that hide lower layers) are absent.
    """
    layers = []
    layer = data.dict
    while layer is not None:
        layers.append(layer)
        layer = layer.get("_data")
    joined: dict[str, Flags] = {}
    for layer in reversed(layers):
        joined.update(layer)
    joined.pop("_data", None)
    return {
        name: {flag: _copy(value) for flag, value in flags.items()}
        for name, flags in joined.items()
        if flags and name not in EXCLUDED_VARIABLES
    }


def _copy(value: Any) -> Any:
    """Copy of a value: data stores share mutable values between layers, and later parsing changes them."""
    if isinstance(value, (str, int)) or value is None:
        return value
    try:
        return copy.deepcopy(value)
    except TypeError:
        return value


def _encode_variables(variables: dict[str, Flags]) -> tuple[dict[str, Flags], dict[str, Flags]]:
    """Splits variables into values that are JSON as they are, and values in the form of `_tag`."""
    plain: dict[str, Flags] = {}
    tagged: dict[str, Flags] = {}
    for name, flags in variables.items():
        for flag, value in flags.items():
            if _is_plain(value):
                plain.setdefault(name, {})[flag] = value
            else:
                try:
                    tagged.setdefault(name, {})[flag] = _tag(value)
                except NotRepresentable:
                    # A live object (a logger, a compiled pattern): the metadata makes a new one when it needs it.
                    continue
    return plain, {name: flags for name, flags in tagged.items() if flags}


class StoreContents:
    """Contents of a data store, comparable and serialisable."""

    def __init__(self, data: Any) -> None:
        self.variables = flatten(data)
        self._drop_foreign_exports()
        self.overrides = {name: entries for name, entries in data.overridedata.items() if entries}
        self.override_variables = set(data.overridevars)
        self.filters = task_releases.filters(data)
        self.renames = dict(data._var_renames)

    def _drop_foreign_exports(self) -> None:
        """Removes the entries of other recipes from `__exportlist`, which is one set for all recipes of a process."""
        exports = self.variables.get("__exportlist")
        if exports and exports.get("_content"):
            exports["_content"] = {
                name
                for name in exports["_content"]
                if {"export", "unexport"} & self.variables.get(name, {}).keys()
            }

    def base_document(self) -> dict[str, Any]:
        """The base layer: all contents."""
        plain, tagged = _encode_variables(self.variables)
        return {
            "format": FORMAT_VERSION,
            "variables": plain,
            "tagged": tagged,
            "overrides": self.overrides,
            "override_variables": sorted(self.override_variables),
            "filters": self.filters,
            "renames": self.renames,
        }

    def recipe_document(self, base: StoreContents) -> dict[str, Any]:
        """The recipe layer: the differences from `base`."""
        changed = {
            name: flags
            for name, flags in self.variables.items()
            if name not in base.variables or base.variables[name] != flags
        }
        plain, tagged = _encode_variables(changed)
        return {
            "format": FORMAT_VERSION,
            "variables": plain,
            "tagged": tagged,
            "deleted": sorted(set(base.variables) - set(self.variables)),
            "overrides": {
                name: entries
                for name, entries in self.overrides.items()
                if base.overrides.get(name) != entries
            },
            "overrides_deleted": sorted(set(base.overrides) - set(self.overrides)),
            "override_variables": sorted(self.override_variables),
            "filters": self.filters,
            "renames": self.renames,
        }


def encode(document: dict[str, Any]) -> bytes:
    """JSON with sorted keys; the same document always gives the same bytes."""
    return json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogateescape"
    )


def decode(contents: bytes) -> dict[str, Any]:
    """Inverse of `encode`; refuses other format versions."""
    document = json.loads(contents.decode("utf-8", "surrogateescape"))
    if document.get("format") != FORMAT_VERSION:
        raise ValueError(f"data store snapshot of format {document.get('format')}, expected {FORMAT_VERSION}")
    return document


def unchanged(base: dict[str, Any]) -> dict[str, Any]:
    """The recipe document that changes nothing of `base`."""
    same = ("override_variables", "filters", "renames")
    empty: dict[str, Any] = {
        "variables": {},
        "tagged": {},
        "deleted": [],
        "overrides": {},
        "overrides_deleted": [],
    }
    return {"format": FORMAT_VERSION, **empty, **{name: base[name] for name in same}}


def restore(data: Any, base: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Fills the empty data store `data` from a base document and a recipe document, and consumes both."""
    variables: dict[str, Flags] = base["variables"]
    _join_tagged(variables, base["tagged"])
    changed: dict[str, Flags] = recipe["variables"]
    _join_tagged(changed, recipe["tagged"])
    for name in recipe["deleted"]:
        variables.pop(name, None)
    variables.update(changed)
    overrides = base["overrides"]
    for name in recipe["overrides_deleted"]:
        overrides.pop(name, None)
    overrides.update(recipe["overrides"])
    data.dict = variables
    data.overridedata = overrides
    data.overridevars = set(recipe["override_variables"])
    task_releases.set_filters(data, recipe["filters"])
    data._var_renames = dict(recipe["renames"])
    data.overrides = None
    data.expand_cache = {}


def _join_tagged(variables: dict[str, Flags], tagged: dict[str, Flags]) -> None:
    for name, flags in tagged.items():
        into = variables.setdefault(name, {})
        for flag, value in flags.items():
            into[flag] = _untag(value)
