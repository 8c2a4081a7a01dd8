#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the seccomp profile of the workers: the default profile of moby for a process without capabilities, and the
calls that a worker makes in addition.

usage: seccomp_profile.py DEFAULT_JSON >helm/bitzel/files/seccomp.json

DEFAULT_JSON is default.json of the Go module github.com/moby/profiles/seccomp. Its conditions (`includes`, `excludes`)
are those of Docker; the kubelet hands profiles to the container runtime as they are, so they are resolved here.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ARCHITECTURES = {"amd64": "SCMP_ARCH_X86_64", "arm64": "SCMP_ARCH_AARCH64"}
# Oldest kernel with pods in user namespaces.
KERNEL = (6, 3)
# What the launcher and bubblewrap do, as strace shows it, and the default profile refuses:
# * clone: with the flags for new namespaces, which the default profile forbids. clone3 stays refused with ENOSYS,
#   because a filter cannot look at its flags; the C library then calls clone.
# * unshare, setns: the launcher's own namespaces, and those that bubblewrap built.
# * mount, umount2, pivot_root: bubblewrap's file system, and the overlay, /tmp and /proc of each Action.
# * sethostname: bubblewrap's --hostname.
WORKER_CALLS = ["clone", "mount", "pivot_root", "sethostname", "setns", "umount2", "unshare"]


def applies(rule: dict) -> bool:
    """True if a rule of moby is for a process without capabilities on one of the architectures."""
    includes, excludes = rule.get("includes", {}), rule.get("excludes", {})
    if includes.get("caps") or set(excludes.get("arches", [])) >= set(ARCHITECTURES):
        return False
    if "arches" in includes and not set(includes["arches"]) & set(ARCHITECTURES):
        return False
    kernel = tuple(int(part) for part in includes.get("minKernel", "0").split("."))
    return kernel <= KERNEL


def resolve(default: dict, worker_calls: list[str]) -> dict:
    rules = []
    for rule in default["syscalls"]:
        if not applies(rule):
            continue
        # The rule for clone looks at its flags; the worker's own is without a condition.
        names = [name for name in rule["names"] if name not in worker_calls]
        if names:
            kept = {key: rule[key] for key in ("action", "errnoRet", "args") if rule.get(key)}
            rules.append({"names": names, **kept})
    if worker_calls:
        rules.append({"names": worker_calls, "action": "SCMP_ACT_ALLOW"})
    architectures = [
        name
        for entry in default["archMap"]
        if entry["architecture"] in ARCHITECTURES.values()
        for name in (entry["architecture"], *entry.get("subArchitectures", []))
    ]
    return {
        "defaultAction": default["defaultAction"],
        "defaultErrnoRet": default["defaultErrnoRet"],
        "architectures": architectures,
        "syscalls": rules,
    }


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit(__doc__)
    default = json.loads(Path(arguments[0]).read_text())
    json.dump(resolve(default, WORKER_CALLS), sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main(sys.argv[1:])
