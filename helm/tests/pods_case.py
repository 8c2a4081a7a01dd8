# SPDX-License-Identifier: Apache-2.0
"""Base of the tests that start the chart's pods as processes."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import tempfile
import unittest
from functools import cache
from pathlib import Path

import seccomp_profile
from chart import BITZEL, CHART, HELM, MOBY_SECCOMP, ROOT, need, pod_specs, render
from farm import (
    BASE,
    BUILDAH,
    Farm,
    build_images,
    enter_private_namespaces,
    mount_images,
    programs_missing,
    remove_images,
    wait_until,
)
from oci_container import Node

DEMO = ROOT / ".demo"
# Identity of the root file system of the workers' image.
IDENTITY = "worker-image"


def skip(reason: str) -> None:
    print(f"SKIPPED: pods of the chart as processes: {reason}")
    raise unittest.SkipTest(reason)


@cache
def node_directory() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="bitzel-pods-", dir="/var/tmp")


@cache
def node() -> Node:
    """The node of all tests of this process, with the images of the chart."""
    need(HELM, BITZEL, MOBY_SECCOMP)
    if os.getuid() != 0:
        skip("it needs root, for containers with user namespaces of 65536 ids")
    if missing := programs_missing():
        skip(f"{', '.join(missing)} missing; tests/setup.sh installs them")
    if subprocess.run([*BUILDAH, "inspect", BASE], capture_output=True, check=False).returncode != 0:
        skip("the base image is missing; tests/setup.sh makes it")
    directory = Path(node_directory().name)
    directory.chmod(0o755)
    profiles = directory / "seccomp" / "profiles"
    profiles.mkdir(parents=True)
    shutil.copy(CHART / "files" / "seccomp.json", profiles / "bitzel-worker.json")
    build_images(directory)
    enter_private_namespaces()
    moby = json.loads(MOBY_SECCOMP.read_text())
    made = Node(mount_images(directory), profiles.parent, seccomp_profile.resolve(moby, []))
    atexit.register(remove_node, made)
    return made


def remove_node(made: Node) -> None:
    for image in made.images.values():
        subprocess.run(["umount", str(image)], check=True)
    remove_images()
    node_directory().cleanup()


class PodsCase(unittest.TestCase):
    """A test with pods on the node, and a directory of its own."""

    @classmethod
    def setUpClass(cls) -> None:
        node()

    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory(dir=node_directory().name)
        self.addCleanup(scratch.cleanup)
        self.directory = Path(scratch.name)
        self.directory.chmod(0o755)

    def farm(
        self, values: dict, secrets: dict[str, dict[str, bytes]] | None = None
    ) -> tuple[Farm, dict[str, dict]]:
        documents = render(values)
        farm = Farm(node(), self.directory, documents, secrets)
        self.addCleanup(farm.remove)
        return farm, pod_specs(documents)

    def wait_until_ready(self, farm: Farm, name: str) -> None:
        def ready() -> bool:
            container = next(container for container in farm.containers if container.name == name)
            self.assertIsNone(container.process.poll(), f"{name} has ended: {container.output()}")
            return farm.get(name, "/readyz")[0] == 200

        wait_until(ready, 60, f"{name} is ready")

    def assert_helm_test_passes(self, farm: Farm, specs: dict[str, dict]) -> None:
        for number, name in enumerate(("helm-test-health", "helm-test-sandbox")):
            container = farm.start(specs["Pod/t-bitzel-test"], name, container=number)
            self.assertEqual(container.wait(60), 0, container.output())

    def start_build(self, server: str, *arguments: str) -> subprocess.Popen:
        build = self.directory / "build"
        shutil.copytree(DEMO / "build" / "conf", build / "conf", dirs_exist_ok=True)
        process = subprocess.Popen(
            [
                str(BITZEL),
                "build",
                f"--remote={server}",
                f"--cache-dir={self.directory / 'client'}",
                f"--build-dir={build}",
                f"--bitbake={DEMO / 'bitbake'}",
                f"--root-identity={IDENTITY}",
                *arguments,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.kill)
        return process
