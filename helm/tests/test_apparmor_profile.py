# SPDX-License-Identifier: Apache-2.0
"""The AppArmor profile of the chart. apparmor_vm.py tries it on a kernel that has AppArmor."""

from __future__ import annotations

import shutil
import subprocess
import unittest

import apparmor_profile
from chart import CHART, HELM, defaults, need, pod_specs, render

PROFILE = CHART / "files" / "apparmor.profile"


def parser() -> str:
    found = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if found is None:
        reason = "apparmor_parser is missing; apt-get install apparmor"
        print(f"SKIPPED: {reason}")
        raise unittest.SkipTest(reason)
    return found


def parse(text: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [parser(), "--skip-kernel-load", "--skip-cache", "--stdout"],
        input=text.encode(),
        capture_output=True,
        check=False,
    )


class AppArmorProfile(unittest.TestCase):
    def test_is_what_the_script_writes(self):
        self.assertEqual(PROFILE.read_text(), apparmor_profile.profile())

    def test_the_parser_compiles_it(self):
        parsed = parse(PROFILE.read_text())
        self.assertEqual(parsed.returncode, 0, parsed.stderr)
        self.assertIn(apparmor_profile.NAME.encode(), parsed.stdout)
        self.assertNotEqual(parse(PROFILE.read_text().replace("pivot_root,", "pivot_rot,")).returncode, 0)

    def test_every_rule_can_be_taken_away(self):
        whole = apparmor_profile.profile()
        for rule in ("capability sys_admin", "fstype=overlay", "pivot_root", "signal", "deny /sys/"):
            shorter = apparmor_profile.profile({rule})
            self.assertLess(len(shorter), len(whole), rule)
            self.assertNotIn(f"  {rule}", shorter)

    def test_workers_name_it(self):
        need(HELM)
        name = defaults()["workers"]["appArmorProfile"]
        self.assertEqual(name, apparmor_profile.NAME)

        def of_workers(**workers: str) -> dict | None:
            specs = pod_specs(render({"workers": workers}))
            found = [
                specs[pod]["securityContext"].get("appArmorProfile")
                for pod in ("Deployment/t-bitzel-worker-default", "Pod/t-bitzel-test")
            ]
            self.assertEqual(
                found[0], found[1], "helm test makes its sandbox under the profile of the workers"
            )
            return found[0]

        self.assertEqual(of_workers(), {"type": "Localhost", "localhostProfile": name})
        self.assertIsNone(of_workers(appArmorProfile=""), "nodes without AppArmor refuse pods with a profile")
        for isolation in ("unconfined", "sysAdmin"):
            self.assertEqual(of_workers(isolation=isolation), {"type": "Unconfined"})


if __name__ == "__main__":
    unittest.main()
