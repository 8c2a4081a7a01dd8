# SPDX-License-Identifier: GPL-2.0-only
"""Data store snapshots: a restored data store answers every query as the original does.

Needs BitBake's library: BITZEL_TEST_BITBAKE names the directory that holds the package bb.
"""

from __future__ import annotations

import os
import sys
import unittest
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent.parent
sys.path[:0] = [str(DIRECTORY / "runner"), os.environ["BITZEL_TEST_BITBAKE"]]
sys.path.append(str(DIRECTORY / "runner/shims"))

import bb  # noqa: E402
import bb.data_smart  # noqa: E402
import data_store  # noqa: E402


def base_store() -> Any:
    data = bb.data.init()
    data.setVar("OVERRIDES", "a:b")
    data.setVar("COLOUR", "red")
    data.setVar("COLOUR:a", "blue")
    data.setVar("LIST", "one")
    data.setVar("LIST:append", " two")
    data.setVar("LIST:remove", "one")
    data.setVar("WEAK", None)
    data.setVarFlag("WEAK", "_defaultval", "weak")
    data.setVar("BOTH", "${COLOUR} ${@'py' + 'thon'} ${LIST}")
    data.setVarFlag("do_compile", "deps", ["do_configure"])
    data.setVarFlag("do_compile", "func", 1)
    data.setVar("__set", {"x", "y"})
    data.setVar("__nested", {"tuple": ("a", 1), "none": None, "truth": True})
    data.setVarFlag("EXPORTED", "export", "1")
    data.setVar("GONE", "in the base only")
    return data


def recipe_store(base: Any) -> Any:
    data = base.createCopy()
    data.setVar("COLOUR:b", "green")
    data.setVar("PN", "demo")
    data.setVar("LIST:append:a", " three")
    data.delVar("GONE")
    data.setVarFlag("do_compile", "dirs", "${PN}")
    return data


def restored(base: Any, recipe: Any) -> Any:
    contents = data_store.StoreContents(base)
    base_bytes = data_store.encode(contents.base_document())
    recipe_bytes = data_store.encode(data_store.StoreContents(recipe).recipe_document(contents))
    data = bb.data_smart.DataSmart()
    data_store.restore(data, data_store.decode(base_bytes), data_store.decode(recipe_bytes))
    return data


class RoundTrip(unittest.TestCase):
    def setUp(self) -> None:
        self.base = base_store()
        self.recipe = recipe_store(self.base)
        self.restored = restored(self.base, self.recipe)

    def test_restores_every_variable_and_flag(self) -> None:
        self.assertEqual(set(self.restored.keys()), set(self.recipe.keys()))
        for name in self.recipe:
            with self.subTest(name):
                for expand in (True, False):
                    self.assertEqual(self.restored.getVar(name, expand), self.recipe.getVar(name, expand))
                flags = self.recipe.getVarFlags(name, internalflags=True)
                self.assertEqual(self.restored.getVarFlags(name, internalflags=True), flags)

    def test_restores_types(self) -> None:
        self.assertEqual(self.restored.getVar("__set", False), {"x", "y"})
        nested = self.restored.getVar("__nested", False)
        self.assertEqual(nested, {"tuple": ("a", 1), "none": None, "truth": True})
        self.assertIs(type(nested["tuple"]), tuple)
        self.assertIs(type(self.restored.getVarFlag("do_compile", "func", False)), int)

    def test_restored_overrides_can_change(self) -> None:
        for data in (self.recipe, self.restored):
            data.setVar("OVERRIDES", "b")
        self.assertEqual(self.restored.getVar("COLOUR"), "green")
        self.assertEqual(self.restored.getVar("BOTH"), self.recipe.getVar("BOTH"))

    def test_bytes_do_not_depend_on_the_order_of_creation(self) -> None:
        def snapshot(names: list[str]) -> bytes:
            data = bb.data.init()
            for name in names:
                data.setVar(name, name.lower())
                data.setVarFlag(name, "export", "1")
            return data_store.encode(data_store.StoreContents(data).base_document())

        self.assertEqual(snapshot(["ONE", "TWO"]), snapshot(["TWO", "ONE"]))

    def test_excludes_exports_of_other_recipes(self) -> None:
        contents = data_store.StoreContents(self.base)
        before = data_store.encode(data_store.StoreContents(self.recipe).recipe_document(contents))
        # Copies of a data store share this set.
        self.base.createCopy().setVarFlag("OTHER", "export", "1")
        after = data_store.encode(data_store.StoreContents(self.recipe).recipe_document(contents))
        self.assertEqual(before, after)

    def test_refuses_another_format(self) -> None:
        with self.assertRaises(ValueError):
            data_store.decode(b'{"format": 0}')


if __name__ == "__main__":
    unittest.main()
