#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - lines of a profile and of a shell script
"""Writes the AppArmor profile of the workers.

usage: apparmor_profile.py >helm/bitzel/files/apparmor.profile

Each rule has its reason beside it. helm/tests/apparmor_vm.py tries the profile on a kernel with AppArmor, and can leave rules
out.
"""

from __future__ import annotations

import sys

NAME = "bitzel-worker"

# Capabilities are those of the worker's own user namespaces: the pod has none. bubblewrap keeps some of them while it builds
# its file system, and a command that is root in a namespace of its own (pseudo, image recipes) has them there.
CAPABILITIES = {
    "sys_admin": "namespaces, mounts and pivot_root; --hostname",
    "setuid": "bubblewrap drops to the worker's user",
    "setgid": "the same",
    "setpcap": "bubblewrap drops its bounding set",
    "net_admin": "bubblewrap brings up the loopback interface of --unshare-net",
    "sys_ptrace": "the launcher looks at the processes of a command",
    "kill": "it ends them",
    "sys_resource": "/proc/sys/user of the launcher's namespace, and limits of commands",
    "dac_override": "it removes what a command left",
    "dac_read_search": "the same",
    "chown": "commands that are root in a namespace of their own",
    "fowner": "the same",
    "fsetid": "the same",
    "sys_chroot": "the same",
}
# File systems that the kernel lets user namespaces mount, and where. No other kind of file system is mounted: none with a
# device behind it.
FILE_SYSTEMS = [
    ("tmpfs", "", "bubblewrap's root; /tmp and /dev/shm of each Action"),
    ("overlay", "", "the input root of an Action; an image root"),
    ("devpts", "", "terminals"),
    ("mqueue", "", "bubblewrap's --dev"),
    # Elsewhere than at /proc, the rules about /proc below would not hold.
    ("proc", " -> /{,newroot/}proc/", "/proc of each Action"),
]
# What changes a mount that is there, and makes none of a new kind.
FLAGS_OF_MOUNTS = "ro,nosuid,nodev,noexec,noatime,nodiratime,relatime,strictatime,silent"
CHANGES_OF_MOUNTS = [
    ("mount options=(bind)", "directories of the worker in the sandbox"),
    ("mount options=(rbind)", "the same"),
    (f"mount options=(remount,bind) options in ({FLAGS_OF_MOUNTS})", "read-only parts of it"),
    (f"mount options=(remount,rbind) options in ({FLAGS_OF_MOUNTS})", "the same, as bubblewrap does it"),
    ("mount options=(move)", "the launcher moves /dev, /proc and /tmp to the input root"),
    ("mount options=(silent,rslave)", "no mount leaves the sandbox"),
    ("mount options=(silent,rprivate)", "the same"),
    ("mount options=(rslave)", "the same, by unshare(1)"),
    ("mount options=(rprivate)", "the same"),
]
# The parser before 3.0.9 makes of the flags of a remount a rule for mounts of any kind (CVE-2016-1585), so all but the
# kinds above are denied by their names: what begins with another letter, or goes on with another one. That it also allows
# a proc elsewhere stays, with such a parser.
OTHER_FILE_SYSTEMS = [
    "[^tdomp]*",
    "t[^m]*",
    "o[^v]*",
    "d[^e]*",
    "de[^v]*",
    "dev[^p]*",
    "m[^q]*",
    "p[^r]*",
    "pr[^o]*",
]
NETWORK = [
    ("inet stream", "the server; fetching"),
    ("inet dgram", "name resolution"),
    ("inet6 stream", "as above"),
    ("inet6 dgram", "as above"),
    ("unix", "pseudo, make's job server, the launcher"),
    ("netlink raw", "getaddrinfo, and the loopback interface"),
]
# Files of the kernel that stay closed, though the rule `file` would open them to whoever passes their permissions.
# /proc/sys/user alone is written, in the launcher's user namespace (limits of namespaces and inotify).
DENIED_FILES = [
    ("/proc/sys/{abi,crypto,debug,dev,fs,kernel,net,sunrpc,vm}/** w", "settings of the kernel"),
    ("/proc/{sysrq-trigger,kcore,kmem,mem,kallsyms,kpagecount,kpageflags} rwklx", "memory of the kernel"),
    ("/proc/{acpi,bus,fs,irq,scsi}/** w", "hardware"),
    ("/sys/** w", "hardware"),
    ("/sys/kernel/{security,debug,tracing}/** rwklx", "policies and traces of the kernel"),
    ("/sys/firmware/** rwklx", "firmware"),
]


def commented(rules: list[tuple[str, str]]) -> list[str]:
    return [line for rule, reason in rules for line in (f"  # {reason}", f"  {rule}")]


def profile(without: frozenset[str] | set[str] = frozenset()) -> str:
    """Text of the profile, without the rules that contain one of some texts."""
    sections = [
        [(f"capability {name},", reason) for name, reason in CAPABILITIES.items()],
        [(f"mount fstype={kind}{where},", reason) for kind, where, reason in FILE_SYSTEMS],
        [(f"{rule},", reason) for rule, reason in CHANGES_OF_MOUNTS],
        [(f"deny mount fstype={kind},", "other file systems") for kind in OTHER_FILE_SYSTEMS],
        [("umount,", "the old root"), ("pivot_root,", "bubblewrap and the launcher change the root")],
        [(f"network {rule},", reason) for rule, reason in NETWORK],
        [
            ("signal (receive),", "the kubelet ends the worker"),
            (f"signal (send) peer={NAME},", "its own processes"),
            (f"ptrace (read,readby,trace,tracedby) peer={NAME},", "its own processes"),
        ],
        [("file,", "what the pod's file systems and users permit")],
        [(f"deny {rule},", reason) for rule, reason in DENIED_FILES],
    ]
    kept = [
        [rule for rule in section if not any(text in rule[0] for text in without)] for section in sections
    ]
    body = "\n\n".join("\n".join(commented(section)) for section in kept if section)
    return (
        "# SPDX-License-Identifier: Apache-2.0\n"
        "# Written by helm/apparmor_profile.py.\n"
        "#\n"
        "# The rules of AppArmor 3: with them the kernel does not mediate the creation of user namespaces by this profile, also\n"
        "# where kernel.apparmor_restrict_unprivileged_userns is 1. Newer parsers take it too.\n"
        "abi <abi/3.0>,\n\n"
        f"profile {NAME} flags=(attach_disconnected,mediate_deleted) {{\n{body}\n}}\n"
    )


def main(arguments: list[str]) -> None:
    if arguments:
        sys.exit(__doc__)
    sys.stdout.write(profile())


if __name__ == "__main__":
    main(sys.argv[1:])
