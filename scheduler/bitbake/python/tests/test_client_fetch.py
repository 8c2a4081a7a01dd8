# SPDX-License-Identifier: GPL-2.0-only
"""Variables of the user that fetchers get.

Needs BitBake's library: BITZEL_TEST_BITBAKE names the directory that holds the package bb.
"""

from __future__ import annotations

import json
import os
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent / "runner"))
sys.path.insert(0, os.environ["BITZEL_TEST_BITBAKE"])

import bb.data_smart
import bb.fetch2
import client_fetch


class ClientFetch(unittest.TestCase):
    def test_fetchers_get_what_their_release_lets_through(self) -> None:
        data = bb.data_smart.DataSmart()
        data.setVar("PATH", "/tools")
        data.setVar("HOME", "/tmp")
        variables = {
            "HOME": "/run/bitzel",
            "PATH": "/usr/bin",
            "https_proxy": "http://proxy",
            "SECRET": "secret",
        }
        with mock.patch.dict(os.environ):
            client_fetch.apply(data, json.dumps(variables))
            self.assertEqual(os.environ["https_proxy"], "http://proxy")
            environment = bb.fetch2.get_fetcher_environment(data)
        self.assertEqual(environment["HOME"], "/run/bitzel")
        self.assertEqual(environment["https_proxy"], "http://proxy")
        self.assertEqual(environment["PATH"], "/tools")
        self.assertIsNone(data.getVar("SECRET"))


if __name__ == "__main__":
    unittest.main()
