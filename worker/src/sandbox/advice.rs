//! Advice for machines that cannot run sandboxes.

use std::fs;

/// Settings that forbid sandboxes: file, the value that forbids, and the advice.
const SETTINGS: [(&str, &str, &str); 4] = [
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "user namespaces are forbidden for ordinary users: run `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor restricts user namespaces (Ubuntu 23.10 and later): run `sysctl -w \
         kernel.apparmor_restrict_unprivileged_userns=0`, or give the worker's program an AppArmor profile with `userns,`",
    ),
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "no user namespaces may be made: run `sysctl -w user.max_user_namespaces=15000`",
    ),
    (
        "/proc/sys/vm/memfd_noexec",
        "2",
        "files in memory may not be executed, and the sandbox launcher is one: run `sysctl -w vm.memfd_noexec=1`",
    ),
];

/// Names the program to install or the setting to change, as far as this machine's settings tell.
pub(super) fn advice() -> String {
    let mut lines = vec![];
    if !in_path("bwrap") {
        lines.push("bubblewrap is not installed: run `apt-get install bubblewrap` (Debian, Ubuntu) or install the package `bubblewrap`".to_owned());
    }
    for (file, forbidding_value, advice) in SETTINGS {
        if fs::read_to_string(file).is_ok_and(|value| value.trim() == forbidding_value) {
            lines.push(advice.to_owned());
        }
    }
    if lines.is_empty() {
        lines.push(
            "bitzel needs bubblewrap (`bwrap`) in PATH, user namespaces, overlayfs in user namespaces (Linux 5.11 or \
             later) and a cache directory on a file system with user extended attributes (ext4, xfs, btrfs; not an \
             overlay, as in a container without a volume)"
                .to_owned(),
        );
    }
    lines.join("\n")
}

/// True if a program is in `PATH`.
pub(super) fn in_path(program: &str) -> bool {
    // The launcher searches the same PATH.
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
