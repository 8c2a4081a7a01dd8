# SPDX-License-Identifier: GPL-2.0-only
"""Paths of the client outside of the layers: source trees of externalsrc, and directories that BitBake writes to.

Needs BitBake's library: BITZEL_TEST_BITBAKE names the directory that holds the package bb.
"""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from pathlib import Path

DIRECTORY = Path(__file__).parent.parent
sys.path[:0] = [str(DIRECTORY / name) for name in ("host", "runner", "runner/shims", "exporter")]
sys.path.insert(0, os.environ["BITZEL_TEST_BITBAKE"])

import bb  # noqa: E402
import bb.data  # noqa: E402
import describe_build  # noqa: E402
import event_handlers  # noqa: E402
import external_sources  # noqa: E402


class ExternalSources(unittest.TestCase):
    def setUp(self) -> None:
        self.directory = Path(self.enterContext(tempfile.TemporaryDirectory())).resolve()
        self.topdir = self.directory / "build"
        (self.topdir / "workspace/appends").mkdir(parents=True)

    def source(self, path: str) -> str:
        directory = self.directory / path
        directory.mkdir(parents=True)
        return str(directory)

    def test_finds_those_of_the_configuration_and_of_devtool(self) -> None:
        first, second = self.source("a/zlib"), self.source("b/zlib")
        data = bb.data.init()
        data.setVar("EXTERNALSRC:pn-zlib", first)
        data.setVar("EXTERNALSRC:pn-lost", "/nonexistent")
        append = self.topdir / "workspace/appends/zlib-native_%.bbappend"
        append.write_text(f'inherit externalsrc\nEXTERNALSRC:pn-zlib-native = "{second}"\n', encoding="utf-8")
        found = describe_build.find_external_sources(data, str(self.topdir))
        expected = [(first, "external/zlib"), (second, "external/zlib-2")]
        self.assertEqual([(source["path"], source["sandbox_path"]) for source in found], expected)

    def test_recipes_get_the_path_in_the_sandbox(self) -> None:
        data = bb.data.init()
        data.setVar("OVERRIDES", "pn-zlib")
        data.setVar("EXTERNALSRC:pn-zlib", "/home/me/zlib/lib/")
        data.setVar("EXTERNALSRC_BUILD:pn-zlib", "/home/me/zlib-build")
        external_sources.replace_paths(data, {"/home/me/zlib": "/work/external/zlib"})
        self.assertEqual(data.getVar("EXTERNALSRC"), "/work/external/zlib/lib")
        self.assertIsNone(data.getVar("EXTERNALSRC_BUILD"))


class WrittenDirectories(unittest.TestCase):
    def test_are_those_outside_of_the_build_directory(self) -> None:
        data = bb.data.init()
        data.setVar("TMPDIR", "/scratch/tmp")
        data.setVar("SSTATE_DIR", "/build/sstate-cache")
        data.setVar("CACHE", "${UNKNOWN}/cache")
        self.assertEqual(describe_build.find_written_directories(data, "/build"), ["/scratch/tmp"])


class SharedState(unittest.TestCase):
    def test_is_that_of_the_users_files(self) -> None:
        data = bb.data.init()
        found = describe_build.find_shared_state(data, "/build")
        self.assertEqual((found["directory"], found["mirrors"]), ("/build/sstate-cache", ""))
        data.setVar("SSTATE_DIR", "${TOPDIR}/../state")
        data.setVar("TOPDIR", "/build")
        data.setVar("SSTATE_MIRRORS", "file://.* http://a/PATH \\n file://.* file:///b/PATH")
        data.setVar("GPG_PATH", "/keys")
        found = describe_build.find_shared_state(data, "/build")
        self.assertEqual((found["directory"], found["keys"]), ("/state", "/keys"))
        self.assertEqual(
            found["mirrors"].split(), ["file://.*", "http://a/PATH", "file://.*", "file:///b/PATH"]
        )


class UnfiredHandlers(unittest.TestCase):
    def test_are_those_with_an_event_of_the_server(self) -> None:
        data = bb.data.init()
        masks = {
            "beat": "bb.event.BuildCompleted bb.event.HeartbeatEvent",
            "all": "",
            "task": "bb.build.TaskSucceeded",
            "sstate_eventhandler_stalesstate": "bb.event.StaleSetSceneTasks",
        }
        for name, mask in masks.items():
            data.setVar(name, "pass")
            data.setVarFlag(name, "eventmask", mask)
        data.setVar("__BBHANDLERS", list(masks))
        expected = [{"name": "all", "events": ["*"]}, {"name": "beat", "events": ["bb.event.HeartbeatEvent"]}]
        self.assertEqual(event_handlers.unfired_handlers(data), expected)
        self.assertTrue(event_handlers.waits_for_end(data))
        data.setVar("__BBHANDLERS", ["task"])
        self.assertFalse(event_handlers.waits_for_end(data))


if __name__ == "__main__":
    unittest.main()
