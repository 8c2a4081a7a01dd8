#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - lines of a profile and of a shell script
"""Tries the AppArmor profile of the workers on a kernel that has AppArmor, in a virtual machine.

usage: apparmor_vm.py [--without RULE]…

Boots Debian's kernel in QEMU (software emulation: some minutes), with a root file system in memory that has the programs of
this machine. There, the node-preparation script of the chart loads the profile; a worker under it, as an ordinary user
without new privileges, checks its sandbox and runs an Action of a real server; and the profile refuses what a worker does
not need. `--without` leaves out the rules that contain a text, to see that something needs them.

Needs the Debian packages apparmor, bubblewrap, busybox-static, cpio, curl, e2fsprogs and qemu-system-x86, and apt-get
download for the kernel. Environment: BITZEL_BIN, the program; BITZEL_TEST_VM, a directory that keeps the kernel.
"""

from __future__ import annotations

import argparse
import lzma
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELM = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HELM))

import apparmor_profile  # noqa: E402 - the directory above
from remote_action import requests  # noqa: E402 - beside it

CHART_FILES = HELM / "bitzel" / "files"
BITZEL = Path(os.environ.get("BITZEL_BIN", HELM.parent / "target" / "debug" / "bitzel"))
KEPT = Path(os.environ.get("BITZEL_TEST_VM", HELM.parent / ".demo" / "apparmor-vm"))
KERNEL_PACKAGE = "linux-image-cloud-amd64"
# In the order in which they need each other.
MODULES = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "overlay",
]
PROGRAMS = [
    "aa-exec",
    "apparmor_parser",
    "bash",
    "bwrap",
    "cat",
    "curl",
    "dash",
    "grep",
    "mount",
    "setpriv",
    "sh",
    "sleep",
    "true",
    "umount",
]
LIMIT_SECONDS = 1200
# The root file system in memory that the kernel starts with cannot be left by pivot_root, so the machine has one on a disk.
BOOT = r"""#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t devtmpfs devtmpfs /dev
for module in /modules/*.ko; do $bb insmod $module; done
$bb mount -t ext4 /dev/vda /root || $bb poweroff -f
$bb mount --move /dev /root/dev
$bb umount /proc
exec $bb switch_root /root /check
"""
CHECK = r"""#!/usr/bin/dash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mkdir -p /dev/shm /dev/pts
$bb mount -t tmpfs tmpfs /dev/shm
$bb mount -t tmpfs tmpfs /tmp
$bb mount -t devpts devpts /dev/pts
$bb mount -t securityfs securityfs /sys/kernel/security
$bb mkdir -p /data/server /data/worker /data/check /mnt
$bb chown 1000:1000 /data/server /data/worker /data/check
$bb chmod 1777 /tmp
$bb ip link set lo up
echo 4 >/proc/sys/kernel/printk

result() { # NAME EXPECTED COMMAND…: an exit code of 0 (yes) or another one (no)
    name=$1 expected=$2
    shift 2
    if "$@" >/tmp/output 2>&1; then got=yes; else got=no; fi
    $bb head -n 20 /tmp/output | $bb sed "s/^/    /"
    if [ $got = $expected ]; then echo "RESULT ok $name"; else echo "RESULT wrong $name"; fi
}
user="setpriv --reuid=1000 --regid=1000 --clear-groups --no-new-privs"
worker="$user aa-exec --profile=bitzel-worker --"
# Root with the one capability that the chart's containers have.
loader="setpriv --bounding-set=-all,+mac_admin --inh-caps=-all --no-new-privs"
setter="setpriv --bounding-set=-all,+sys_resource --inh-caps=-all --no-new-privs"
root="aa-exec --profile=bitzel-worker --"

$bb uname -r
result "the script of the node loads the profile" yes $loader sh /node/apparmor.sh /profiles /sys/kernel/security
result "the script of the node loads it again" yes $loader sh /node/apparmor.sh /profiles /sys/kernel/security
result "the script of the node sets sysctls" yes $setter sh /node/sysctls.sh /proc/sys user.max_user_namespaces=99999 \
    kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0
result "the sysctl is set" yes grep -x 99999 /proc/sys/user/max_user_namespaces
result "a worker is confined" yes $worker grep -x "bitzel-worker (enforce)" /proc/self/attr/current
result "root mounts a device" yes mount -t ext4 /dev/vda /mnt
umount /mnt
result "root under the profile mounts a device" no $root mount -t ext4 /dev/vda /mnt
result "root mounts sysfs" yes mount -t sysfs sysfs /mnt
umount /mnt
result "root under the profile mounts sysfs" no $root mount -t sysfs sysfs /mnt
result "root writes to /proc/sys/kernel" yes sh -c "echo x >/proc/sys/kernel/domainname"
result "root under the profile writes to /proc/sys/kernel" no $root sh -c "echo x >/proc/sys/kernel/domainname"
result "root writes to /sys" yes sh -c "echo 0 >/sys/block/vda/queue/iostats"
result "root under the profile writes to /sys" no $root sh -c "echo 0 >/sys/block/vda/queue/iostats"
$bb sleep 1000 & foreign=$!
result "root looks into another process" yes cat /proc/$foreign/environ
result "root under the profile looks into another process" no $root cat /proc/$foreign/environ
result "root under the profile signals another process" no $root sh -c "kill -0 $foreign"
result "root under the profile changes policies" no $root cat /sys/kernel/security/apparmor/.replace
result "root under the profile has a raw socket" no $root $bb ping -c 1 -W 1 127.0.0.1
result "a worker without the profile makes a sandbox" yes $user bitzel worker --check --cache-dir=/data/check --action-network=host
result "a worker makes a sandbox" yes $worker bitzel worker --check --cache-dir=/data/check --action-network=host

$user bitzel serve --cache-dir=/data/server --jobs=0 --store-size=1 >/tmp/server.log 2>&1 &
until $bb nc 127.0.0.1 8980 </dev/null >/dev/null 2>&1; do $bb sleep 1; done
$worker bitzel worker grpc://127.0.0.1:8980 --jobs=1 --cache-dir=/data/worker --action-network=host --log=info >/tmp/worker.log 2>&1 &
call() {
    curl --silent --show-error --max-time 120 --http2-prior-knowledge --header "content-type: application/grpc" \
        --header "te: trailers" --data-binary @/requests/$1 http://127.0.0.1:8980/build.bazel.remote.execution.v2.$2
}
action() {
    call upload ContentAddressableStorage/BatchUpdateBlobs >/tmp/uploaded && call execute Execution/Execute >/tmp/executed
    $bb strings /tmp/executed
    grep -a -q "an Action under bitzel-worker (enforce)" /tmp/executed
}
result "an Action runs under the profile" yes action
$bb tail -n 5 /tmp/worker.log /tmp/server.log

$bb dmesg | grep 'apparmor="DENIED"' | $bb sed "s/.*apparmor=/apparmor=/" | $bb sort | $bb uniq | $bb head -n 60
echo "ALL DONE"
$bb poweroff -f
"""


def run(*command: str | Path, **options: object) -> str:
    return subprocess.run(
        [str(part) for part in command], check=True, text=True, stdout=subprocess.PIPE, **options
    ).stdout


def kernel() -> Path:
    """Directory with Debian's kernel and its modules."""
    unpacked = KEPT / "kernel"
    if not unpacked.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        depends = run("apt-cache", "depends", "--no-recommends", KERNEL_PACKAGE)
        package = re.search(r"Depends: (linux-image-\S+)", depends)[1]
        with tempfile.TemporaryDirectory(dir=KEPT) as directory:
            run("apt-get", "download", package, cwd=directory)
            run("dpkg-deb", "--extract", next(Path(directory).glob("*.deb")), f"{directory}/kernel")
            (Path(directory) / "kernel").rename(unpacked)
    return unpacked


def copy_program(program: str | Path, root: Path) -> None:
    """Copies a program of this machine, and the libraries that it is linked with, to the same paths."""
    path = Path(shutil.which(str(program), path="/usr/sbin:/usr/bin:/sbin:/bin")).resolve()
    named = root / "usr/bin" / Path(program).name
    shutil.copy(path, named)
    for library in re.findall(r"(/\S+)", run("ldd", path).replace(f"{path}:", "")):
        target = root / "usr" / Path(library).relative_to("/").as_posix().removeprefix("usr/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(Path(library).resolve(), target)


def make_root(root: Path, profile: str) -> None:
    for directory in [
        "proc",
        "sys",
        "dev",
        "tmp",
        "data",
        "mnt",
        "run",
        "var",
        "etc",
        "usr/bin",
        "usr/lib",
        "usr/lib64",
        "usr/sbin",
        "requests",
        "profiles",
        "node",
    ]:
        (root / directory).mkdir(parents=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        (root / link).symlink_to(f"usr/{link}")
    for program in PROGRAMS:
        copy_program(program, root)
    shutil.copy("/usr/bin/busybox", root / "usr/bin/busybox")
    copy_program("/usr/bin/true", root)
    for library in re.findall(r"=> (/\S+)", run("ldd", BITZEL)):
        target = root / "usr" / Path(library).relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copy(Path(library).resolve(), target)
    run("strip", "-o", root / "usr/bin/bitzel", BITZEL)
    for name in ("grep", "mkdir", "rm", "echo", "ls", "tr"):
        if not (root / "usr/bin" / name).exists():
            (root / "usr/bin" / name).symlink_to("busybox")
    shutil.copytree("/etc/apparmor.d/abi", root / "etc/apparmor.d/abi")
    shutil.copytree("/etc/apparmor", root / "etc/apparmor")
    # The features that Debian's parser pins.
    if (features := Path("/usr/share/apparmor-features")).exists():
        shutil.copytree(features, root / "usr/share/apparmor-features")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nbitzel:x:1000:1000::/data:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nbitzel:x:1000:\n")
    (root / "etc/os-release").write_text(Path("/etc/os-release").read_text())
    (root / "profiles/bitzel-worker.apparmor").write_text(profile)
    shutil.copytree(CHART_FILES / "node", root / "node", dirs_exist_ok=True)
    script = 'mkdir made && read -r label </proc/self/attr/current && echo "an Action under $label"'
    upload, execute = requests(["/bin/sh", "-euc", script])
    (root / "requests/upload").write_bytes(upload)
    (root / "requests/execute").write_bytes(execute)
    write_script(root / "check", CHECK)


def make_archive(directory: Path, archive: Path) -> None:
    """Makes the archive that the kernel starts with: the modules, and what mounts the disk."""
    for name in ("bin", "dev", "modules", "proc", "root"):
        (directory / name).mkdir(parents=True)
    shutil.copy("/usr/bin/busybox", directory / "bin/busybox")
    modules = {path.name.split(".")[0]: path for path in kernel().rglob("*.ko*")}
    for number, name in enumerate(MODULES):
        # What is not a module is a part of the kernel.
        if name in modules:
            content = modules[name].read_bytes()
            packed = modules[name].suffix == ".xz"
            (directory / f"modules/{number}-{name}.ko").write_bytes(
                lzma.decompress(content) if packed else content
            )
    write_script(directory / "init", BOOT)
    names = run("find", ".", "-print0", cwd=directory)
    with archive.open("wb") as output:
        subprocess.run(
            ["cpio", "--null", "--create", "--format=newc", "--owner=0:0", "--quiet"],
            input=names.encode(), stdout=output, cwd=directory, check=True,
        )  # fmt: skip


def write_script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--without", metavar="RULE", action="append", default=[])
    profile = apparmor_profile.profile(set(parser.parse_args(arguments).without))
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bitzel-vm-") as directory:
        root, boot, archive, disk = (Path(directory) / name for name in ("root", "boot", "boot.cpio", "disk"))
        make_root(root, profile)
        make_archive(boot, archive)
        with disk.open("wb") as file:
            file.truncate(4 << 30)
        run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", root, disk)
        machine = subprocess.Popen(
            [
                "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1536", "-nographic",
                "-no-reboot", "-nic", "none", "-kernel", str(next((kernel() / "boot").glob("vmlinuz-*"))),
                "-initrd", str(archive), "-drive", f"file={disk},format=raw,if=virtio",
                "-append", "console=ttyS0 quiet panic=-1 no_timer_check mitigations=off audit=1 apparmor=1 security=apparmor",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip
        lines = []
        try:
            for line in machine.stdout:
                lines.append(line)
                print(f"{time.monotonic() - started:6.1f}  {line}", end="", flush=True)
                if time.monotonic() - started > LIMIT_SECONDS:
                    break
        finally:
            machine.kill()
            machine.wait()
    results = [line for line in lines if line.startswith("RESULT ")]
    wrong = [line for line in results if not line.startswith("RESULT ok ")]
    finished = any(line.startswith("ALL DONE") for line in lines)
    print(
        f"{len(results) - len(wrong)} of {len(results)} as expected{'' if finished else '; the machine did not finish'}"
    )
    return 0 if finished and not wrong else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
