# SPDX-License-Identifier: Apache-2.0
"""Containers of rendered pods, run by crun as a kubelet with a container runtime would run them.

Command, user, environment, mounts, capabilities, /proc, seccomp profile and user namespace are those of the pod. Not
here: cgroups, AppArmor, and the idmapped root file system of a container runtime (files of the image belong to nobody
in a user namespace; they are readable all the same).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# The runtime's defaults for `procMount: Default`.
MASKED = [
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
]  # fmt: skip
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
# Ids of a pod in a user namespace: as many as the kubelet gives it.
FIRST_ID = 1_000_000
IDS = 65_536
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Node:
    """What a node has for its pods."""

    # Directories of images, by the name without registry and tag.
    images: dict[str, Path]
    # The kubelet's directory of seccomp profiles.
    seccomp: Path
    # Profile of `RuntimeDefault`, in the form of the Open Container Initiative.
    default_seccomp: dict


@dataclass
class Process:
    """A process of the node."""

    id: int
    parent: int
    name: str
    # One letter, such as Z: it has ended and was not reaped.
    state: str

    @classmethod
    def read(cls, status: Path) -> Process | None:
        """Reads a file `status` of /proc. None if the process has ended meanwhile."""
        try:
            fields = dict(line.split(":\t", 1) for line in status.read_text().splitlines() if ":\t" in line)
        except OSError:
            return None
        return cls(int(fields["Pid"]), int(fields["PPid"]), fields["Name"], fields["State"][0])


class Container:
    """A running container."""

    def __init__(self, name: str, bundle: Path, process: subprocess.Popen, log: Path):
        self.name = name
        self.bundle = bundle
        self.process = process
        self.log = log

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def terminate(self) -> None:
        """Sends SIGTERM to the first process, as the kubelet does."""
        crun("kill", self.name, "TERM")

    def kill(self) -> None:
        """Kills the first process, and so all of them, as when a node is lost."""
        crun("kill", self.name, "KILL")

    def processes(self) -> list[Process]:
        """Processes of the container, as the node sees them."""
        state = subprocess.run(["crun", "state", self.name], check=True, capture_output=True, text=True)
        found = {json.loads(state.stdout)["pid"]}
        everything = [
            process for path in Path("/proc").glob("[0-9]*/status") if (process := Process.read(path))
        ]
        # Ids grow, but they start again at their limit.
        while more := {process.id for process in everything if process.parent in found} - found:
            found |= more
        return [process for process in everything if process.id in found]

    def remove(self) -> None:
        if self.process.poll() is None:
            subprocess.run(["crun", "delete", "--force", self.name], check=False, capture_output=True)
            self.process.wait()
        shutil.rmtree(self.bundle)


def crun(*arguments: str) -> None:
    subprocess.run(["crun", *arguments], check=True)


def start(
    node: Node,
    pod: dict,
    container: dict,
    volumes: dict[str, Path],
    directory: Path,
    name: str,
    network: str | None = None,
    hosts: str = "127.0.0.1 localhost\n",
) -> Container:
    """Starts a container of a pod's spec. `network` is the path of a network namespace; without it, the container has
    one with nothing in it."""
    bundle = directory / name
    bundle.mkdir()
    (bundle / "hosts").write_text(hosts)
    configuration = oci_configuration(node, pod, container, volumes, bundle, name, network)
    (bundle / "config.json").write_text(json.dumps(configuration))
    log = directory / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["crun", "--cgroup-manager=disabled", "run", "--bundle", str(bundle), name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    return Container(name, bundle, process, log)


def oci_configuration(
    node: Node,
    pod: dict,
    container: dict,
    volumes: dict[str, Path],
    bundle: Path,
    name: str,
    network: str | None,
) -> dict:
    of_pod, own = pod.get("securityContext", {}), container.get("securityContext", {})
    context = {**of_pod, **own}
    user_namespace = pod.get("hostUsers") is False
    unmasked = context.get("procMount") == "Unmasked"
    if unmasked and not user_namespace:
        raise ValueError("procMount: Unmasked needs hostUsers: false; the API server refuses this pod")
    # Without ambient capabilities, the kernel takes all of them from a user who is not root.
    capabilities = [f"CAP_{name}" for name in context.get("capabilities", {}).get("add", [])]
    if context.get("capabilities", {}).get("drop") != ["ALL"]:
        raise ValueError("the container keeps the runtime's default capabilities")
    namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup")]
    namespaces.append({"type": "network", "path": network} if network else {"type": "network"})
    linux: dict = {"namespaces": namespaces, "rootfsPropagation": "private"}
    if user_namespace:
        namespaces.append({"type": "user"})
        mapping = [{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]
        linux.update(uidMappings=mapping, gidMappings=mapping)
    if not unmasked:
        linux.update(maskedPaths=MASKED, readonlyPaths=READ_ONLY)
    profile = seccomp_profile(node, context.get("seccompProfile", {"type": "Unconfined"}))
    if profile:
        linux["seccomp"] = profile
    variables = {entry["name"]: value_of(entry, name) for entry in container.get("env", [])}
    environment = [
        f"PATH={PATH}",
        f"HOSTNAME={name}",
        *(f"{key}={value}" for key, value in variables.items()),
    ]
    image = container["image"].split(":")[0].split("/")[-1]
    return {
        "ociVersion": "1.0.2",
        "hostname": name,
        "root": {"path": str(node.images[image]), "readonly": context.get("readOnlyRootFilesystem", False)},
        "process": {
            "args": [
                expanded(argument, variables)
                for argument in [*container["command"], *container.get("args", [])]
            ],
            "cwd": "/",
            "env": environment,
            "user": {
                "uid": context["runAsUser"],
                "gid": context["runAsGroup"],
                "additionalGids": [context["fsGroup"]] if "fsGroup" in context else [],
            },
            "noNewPrivileges": not context["allowPrivilegeEscalation"],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
        },
        "mounts": [
            *system_mounts(user_namespace, bundle),
            *volume_mounts(container, volumes, user_namespace),
        ],
        "linux": linux,
    }


def value_of(entry: dict, pod: str) -> str:
    """Value of an environment variable, as a kubelet reads it."""
    if "value" in entry:
        return entry["value"]
    if entry["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}:
        return pod
    raise ValueError(f"unexpected variable {entry}")


def expanded(argument: str, variables: dict[str, str]) -> str:
    """An argument with its `$(NAME)` replaced, as a kubelet does; those of unknown variables stay."""
    return re.sub(r"\$\((\w+)\)", lambda match: variables.get(match[1], match[0]), argument)


def seccomp_profile(node: Node, profile: dict) -> dict | None:
    if profile["type"] == "Localhost":
        return json.loads((node.seccomp / profile["localhostProfile"]).read_text())
    return node.default_seccomp if profile["type"] == "RuntimeDefault" else None


def system_mounts(user_namespace: bool, bundle: Path) -> list[dict]:
    def mount(target: str, kind: str, *options: str) -> dict:
        return {"destination": target, "type": kind, "source": kind, "options": list(options)}

    # The network namespace is made outside of the pod's user namespace here, which may not mount its sysfs then.
    sysfs = {"destination": "/sys", "type": "none", "source": "/sys", "options": ["rbind", "ro"]}
    hosts = {
        "destination": "/etc/hosts",
        "type": "none",
        "source": str(bundle / "hosts"),
        "options": ["bind", "ro"],
    }
    return [
        mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
        sysfs if user_namespace else mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
        hosts,
    ]


def volume_mounts(container: dict, volumes: dict[str, Path], user_namespace: bool) -> list[dict]:
    mounts = []
    for mount in container.get("volumeMounts", []):
        # The kubelet maps the ids of volumes to those of the pod.
        options = ["rbind", "ro" if mount.get("readOnly") else "rw", *(["idmap"] if user_namespace else [])]
        source = str(volumes[mount["name"]])
        mounts.append(
            {"destination": mount["mountPath"], "type": "none", "source": source, "options": options}
        )
    return mounts
