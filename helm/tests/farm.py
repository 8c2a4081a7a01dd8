# SPDX-License-Identifier: Apache-2.0
"""A farm of rendered pods on this machine: images by buildah, containers by crun, a network with nothing else in it."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import oci_container
from chart import BITZEL, NAMESPACE, ROOT
from oci_container import Container, Node

CONTAINERS = ROOT / ".demo" / "containers"
BUILDAH = [
    "buildah",
    f"--root={CONTAINERS / 'storage'}",
    f"--runroot={CONTAINERS / 'run'}",
    "--storage-driver=overlay",
]
# tests/setup.sh makes it from packages of Debian.
BASE = "localhost/bitzel-test-debian"
EXTRA_PACKAGES = "cmake meson ninja-build pseudo"
IMAGES = ["worker", "server"]
CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
FS_GROUP = 1000
NETWORK = "10.89.0"
T = TypeVar("T")
LINKS = itertools.count()
# The last part of a pod's address, which no later pod of this process gets.
ADDRESSES = itertools.count(2)


def run(*command: str | Path, **options: object) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, text=True, stdout=subprocess.PIPE, **options
    ).stdout


def enter_private_namespaces() -> None:
    """Moves this process to a network with one bridge, and to mounts that only it sees."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    run("mount", "--make-rprivate", "/")
    # crun works with the second version of cgroups alone, as Kubernetes nodes have it.
    run("umount", "--recursive", "/sys/fs/cgroup")
    run("mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup")
    run("mount", "-t", "tmpfs", "tmpfs", "/run")
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "pods", "type", "bridge")
    run("ip", "address", "add", f"{NETWORK}.1/24", "dev", "pods")
    run("ip", "link", "set", "pods", "up")


def build_images(directory: Path) -> None:
    """Builds helm/images/Dockerfile with this program. Its layers of Debian packages come from tests/setup.sh."""
    program = directory / "program" / "target" / "release"
    program.mkdir(parents=True)
    run("strip", "-o", program / "bitzel", BITZEL)
    for target in IMAGES:
        run(
            *BUILDAH,
            "bud",
            "--isolation=chroot",
            "--layers",
            "--quiet",
            f"--file={ROOT / 'helm' / 'images' / 'Dockerfile'}",
            f"--target={target}",
            f"--tag=localhost/bitzel-{target}",
            f"--build-context=program={directory / 'program'}",
            f"--build-arg=DEBIAN={BASE}",
            f"--build-arg=EXTRA_PACKAGES={EXTRA_PACKAGES}",
            directory / "program",
        )


def mount_images(directory: Path) -> dict[str, Path]:
    """Mounts the images; the mounts end with this process."""
    images = {}
    for target in IMAGES:
        container = run(*BUILDAH, "from", "--pull-never", f"localhost/bitzel-{target}").strip()
        root = run(*BUILDAH, "mount", container).strip()
        # The directories above it belong to root alone.
        image = directory / f"bitzel-{target}"
        image.mkdir()
        run("mount", "--bind", root, image)
        images[image.name] = image
    return images


def remove_images() -> None:
    """Removes what has this program in it. The layers below stay, for the next build."""
    run(*BUILDAH, "rm", "--all")
    run(*BUILDAH, "rmi", "--force", *(f"localhost/bitzel-{target}" for target in IMAGES))
    run(*BUILDAH, "rmi", "--prune")


class Farm:
    """Pods of a release on one node."""

    def __init__(
        self,
        node: Node,
        directory: Path,
        documents: list[dict],
        secrets: dict[str, dict[str, bytes]] | None = None,
    ):
        self.node = node
        self.secrets = secrets or {}
        self.directory = directory
        self.documents = documents
        self.containers: list[Container] = []
        self.addresses: dict[str, str] = {}
        self.mounts: list[Path] = []

    def start(
        self,
        spec: dict,
        name: str,
        container: int = 0,
        host: str | None = None,
        address: str | None = None,
    ) -> Container:
        """Starts one container of a pod's spec, with volumes and an address of its own, which all know as `host` in the
        namespace."""
        address = address or f"{NETWORK}.{next(ADDRESSES)}"
        network = self.add_network(name, address)
        self.addresses[name] = address
        if host:
            self.addresses[f"{host}.{NAMESPACE}.svc"] = address
        volumes = {volume["name"]: self.make_volume(name, volume) for volume in spec.get("volumes", [])}
        for mount in spec["containers"][container].get("volumeMounts", []):
            # The claims of a StatefulSet.
            if mount["name"] not in volumes:
                volumes[mount["name"]] = self.empty_directory(name, mount["name"])
        started = oci_container.start(
            self.node,
            spec,
            spec["containers"][container],
            volumes,
            self.directory,
            name,
            network,
            self.hosts(),
        )
        self.containers.append(started)
        # In place: the file is mounted into each container.
        for other in self.containers:
            (other.bundle / "hosts").write_text(self.hosts())
        return started

    def hosts(self) -> str:
        """What the name server of a cluster knows."""
        return "127.0.0.1 localhost\n" + "".join(
            f"{address} {host}\n" for host, address in self.addresses.items()
        )

    @staticmethod
    def add_network(name: str, address: str) -> str:
        # The kernel removes the link of an ended pod a while after its namespace.
        link = f"pod{next(LINKS)}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", link, "master", "pods", "up")
        run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        return f"/run/netns/{name}"

    def make_volume(self, pod: str, volume: dict) -> Path:
        directory = self.empty_directory(pod, volume["name"])
        if "configMap" in volume:
            maps = [document for document in self.documents if document["kind"] == "ConfigMap"]
            data = next(d["data"] for d in maps if d["metadata"]["name"] == volume["configMap"]["name"])
            for key, text in data.items():
                (directory / key).write_text(text)
        elif "secret" in volume:
            secret = self.secrets[volume["secret"]["secretName"]]
            # Without `items`, all keys.
            for key in [item["key"] for item in volume["secret"].get("items", [])] or secret:
                content = secret[key]
                (directory / key).write_bytes(content)
                os.chown(directory / key, 0, FS_GROUP)
                (directory / key).chmod(volume["secret"]["defaultMode"])
        elif volume.get("emptyDir", {}).get("medium") == "Memory":
            run("mount", "-t", "tmpfs", "-o", f"size=50%,mode=2777,gid={FS_GROUP}", "tmpfs", directory)
            self.mounts.append(directory)
        elif "emptyDir" not in volume:
            raise ValueError(f"unexpected volume {volume}")
        return directory

    def empty_directory(self, pod: str, name: str) -> Path:
        """A directory as the kubelet makes it for a pod with an fsGroup."""
        directory = self.directory / f"volume-{pod}-{name}"
        # A pod of a StatefulSet that starts again finds its claim.
        directory.mkdir(exist_ok=True)
        os.chown(directory, 0, FS_GROUP)
        directory.chmod(0o2777)
        return directory

    def get(self, name: str, path: str) -> tuple[int, str]:
        """Status and answer of a container's admin port, as a probe sees them; 0 if it does not listen."""
        try:
            with urllib.request.urlopen(f"http://{self.addresses[name]}:9980{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str, metric: str) -> float:
        _, text = self.get(name, "/metrics")
        lines = [line for line in text.splitlines() if line.split("{")[0].split(" ")[0] == metric]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def end(self, container: Container) -> None:
        """Removes an ended container. A later one of the same name finds its volumes again, as in a StatefulSet."""
        container.remove()
        run("ip", "netns", "delete", container.name)
        self.containers.remove(container)

    def remove(self) -> None:
        for container in self.containers:
            container.remove()
            run("ip", "netns", "delete", container.name)
        for mount in self.mounts:
            run("umount", mount)


def wait_until(condition: Callable[[], T], seconds: float, of: str) -> T:
    """Asks again and again, as a kubelet does, until the answer is true."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {of}")
        time.sleep(0.05)
    return answer


def programs_missing() -> list[str]:
    return [name for name in ("buildah", "crun", "ip", "strip", "bwrap") if shutil.which(name) is None]
