# SPDX-License-Identifier: Apache-2.0
"""The DaemonSet that prepares nodes: its containers' own command lines, in bubblewrap with directories for the node's.

AppArmor and the kernel's own /proc/sys are in apparmor_vm.py.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from chart import CHART, HELM, need, objects_of, pod_specs, render, template

VALUES = {"server": {"enabled": False}, "pools": [], "nodeProfiles": {"enabled": True}}
NAME = "t-bitzel-node-profiles"


def prepared(**node_profiles: object) -> tuple[dict, dict[str, str]]:
    """Spec of the pod, and the files of its ConfigMap."""
    documents = render({**VALUES, "nodeProfiles": {"enabled": True, **node_profiles}})
    return pod_specs(documents)[f"DaemonSet/{NAME}"], objects_of(documents, "ConfigMap")[NAME]["data"]


class NodePreparation(unittest.TestCase):
    def setUp(self) -> None:
        need(HELM)
        if shutil.which("bwrap") is None:
            print("SKIPPED: bwrap is missing")
            raise unittest.SkipTest("bwrap is missing")
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def run_container(
        self, spec: dict, files: dict[str, str], name: str, volumes: dict[str, Path]
    ) -> subprocess.CompletedProcess:
        """Runs a container's command in namespaces that have the volumes where the chart mounts them."""
        container = next(c for c in spec["initContainers"] if c["name"] == name)
        profiles = self.directory / "profiles"
        profiles.mkdir(exist_ok=True)
        for file, text in files.items():
            (profiles / file).write_text(text)
        command = ["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc"]
        for link in ("bin", "sbin", "lib", "lib64"):
            command += ["--symlink", f"usr/{link}", f"/{link}"]
        for mount in container["volumeMounts"]:
            source = profiles if mount["name"] == "profiles" else volumes[mount["name"]]
            bind = "--ro-bind" if mount.get("readOnly") else "--bind"
            command += [bind, str(source), mount["mountPath"]]
        command += ["--", *container["command"], *container.get("args", [])]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def test_puts_the_seccomp_profile_on_a_node(self):
        spec, files = prepared()
        kubelet = self.directory / "seccomp"
        kubelet.mkdir()
        for _ in range(2):
            ended = self.run_container(spec, files, "seccomp", {"seccomp": kubelet})
            self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual([path.name for path in kubelet.rglob("*")], ["profiles", "bitzel-worker.json"])
        written = json.loads((kubelet / "profiles" / "bitzel-worker.json").read_text())
        self.assertEqual(written, json.loads((CHART / "files" / "seccomp.json").read_text()))

    def test_leaves_a_node_without_apparmor_alone(self):
        spec, files = prepared()
        empty = self.directory / "security"
        empty.mkdir()
        ended = self.run_container(spec, files, "apparmor", {"securityfs": empty})
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertIn("this node has no AppArmor", ended.stdout)
        self.assertEqual(
            files["bitzel-worker.apparmor"].strip(), (CHART / "files/apparmor.profile").read_text().strip()
        )

    def test_a_profile_that_the_kernel_refuses_is_an_error(self):
        spec, files = prepared()
        securityfs = self.directory / "security"
        (securityfs / "apparmor").mkdir(parents=True)
        (securityfs / "apparmor" / ".replace").touch()
        (securityfs / "apparmor" / "profiles").touch()
        files["bitzel-worker.apparmor"] += "no rule\n"
        ended = self.run_container(spec, files, "apparmor", {"securityfs": securityfs})
        self.assertNotEqual(ended.returncode, 0, ended.stdout)

    def test_raises_limits_and_sets_what_a_kernel_has(self):
        settings = {
            "user.max_user_namespaces": 15000,
            "kernel.unprivileged_userns_clone": 1,
            "kernel.apparmor_restrict_unprivileged_userns": 0,
        }
        spec, files = prepared(sysctls=settings)
        user, kernel = self.directory / "user", self.directory / "kernel"
        user.mkdir()
        kernel.mkdir()
        limit, clone = user / "max_user_namespaces", kernel / "unprivileged_userns_clone"
        clone.write_text("0\n")
        for before, after in (("0", "15000"), ("15000", "15000"), ("63000", "63000")):
            limit.write_text(f"{before}\n")
            ended = self.run_container(spec, files, "sysctls", {"sysctl-user": user, "sysctl-kernel": kernel})
            self.assertEqual(ended.returncode, 0, ended.stderr)
            self.assertEqual(limit.read_text().strip(), after)
        self.assertEqual(clone.read_text(), "1\n")
        self.assertIn("this kernel has no kernel.apparmor_restrict_unprivileged_userns", ended.stdout)
        self.assertEqual([path.name for path in kernel.iterdir()], [clone.name])

    def test_each_container_has_what_it_needs_alone(self):
        spec, _ = prepared()
        has = {
            container["name"]: (
                container["securityContext"]["capabilities"].get("add", []),
                sorted(m["name"] for m in container["volumeMounts"] if m["name"] != "profiles"),
            )
            for container in spec["initContainers"]
        }
        expected = {
            "seccomp": ([], ["seccomp"]),
            "apparmor": (["MAC_ADMIN"], ["securityfs"]),
            "sysctls": (["SYS_RESOURCE"], ["sysctl-user"]),
        }
        self.assertEqual(has, expected)
        paths = [volume["hostPath"]["path"] for volume in spec["volumes"] if "hostPath" in volume]
        self.assertEqual(paths, ["/var/lib/kubelet/seccomp", "/sys/kernel/security", "/proc/sys/user"])
        (stays,) = spec["containers"]
        self.assertNotIn("volumeMounts", stays)
        self.assertIs(stays["securityContext"]["runAsNonRoot"], True)
        for container in [*spec["initContainers"], stays]:
            context = container["securityContext"]
            self.assertEqual(context["capabilities"]["drop"], ["ALL"])
            self.assertIs(context["allowPrivilegeEscalation"], False)
            self.assertNotIn("privileged", context)

    def test_parts_can_be_left_out(self):
        spec, files = prepared(appArmor=False, sysctls={"user.max_user_namespaces": None})
        self.assertEqual([container["name"] for container in spec["initContainers"]], ["seccomp"])
        self.assertEqual(sorted(files), ["bitzel-worker.json", "seccomp.sh"])
        refused = template(
            {**VALUES, "nodeProfiles": {"enabled": True, "sysctls": {"kernel.core_pattern": 1}}}
        )
        self.assertIn("/nodeProfiles/sysctls", refused.stderr)


if __name__ == "__main__":
    unittest.main()
