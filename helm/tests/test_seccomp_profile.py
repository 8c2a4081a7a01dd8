# SPDX-License-Identifier: Apache-2.0
"""The seccomp profile of the chart."""

from __future__ import annotations

import json
import unittest

import seccomp_profile
from chart import CHART, MOBY_SECCOMP, need


class SeccompProfile(unittest.TestCase):
    def setUp(self) -> None:
        need(MOBY_SECCOMP)
        self.moby = json.loads(MOBY_SECCOMP.read_text())
        self.profile = json.loads((CHART / "files" / "seccomp.json").read_text())

    def test_is_what_the_script_writes(self):
        self.assertEqual(self.profile, seccomp_profile.resolve(self.moby, seccomp_profile.WORKER_CALLS))

    def test_has_no_condition_that_the_kubelet_ignores(self):
        keys = {key for rule in self.profile["syscalls"] for key in rule}
        self.assertLessEqual(keys, {"names", "action", "errnoRet", "args"})

    def test_allows_the_default_and_the_calls_of_workers_alone(self):
        def allowed(profile: dict) -> set[str]:
            rules = [rule for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"]
            return {name for rule in rules for name in rule["names"]}

        added = allowed(self.profile) - allowed(seccomp_profile.resolve(self.moby, []))
        # clone is in both: the default allows it without new namespaces.
        self.assertEqual(added | {"clone"}, set(seccomp_profile.WORKER_CALLS))

    def test_refuses_what_needs_a_capability(self):
        names = {name for rule in self.profile["syscalls"] for name in rule["names"]}
        self.assertFalse(
            names & {"bpf", "init_module", "reboot", "fsopen", "move_mount", "keyctl", "perf_event_open"}
        )


if __name__ == "__main__":
    unittest.main()
