//! Workers that run as root.

use std::fs;

use nix::unistd::geteuid;

use crate::command_error::CommandError;
use crate::console;

/// The risk, for messages.
const RISK: &str = "as root, an Action that finds a hole in the sandbox owns this machine, and the kernel limits root's \
                    processes, keys and disk space less than those of other users";

/// Refuses to run Actions of others as root, unless the user has allowed it.
pub(crate) fn refuse(is_allowed: bool) -> Result<(), CommandError> {
    if is_allowed || !is_root() {
        return Ok(());
    }
    Err(CommandError::new(format!("a worker should not run as root: {RISK}")).hint(
        "start it as a user of its own, for example with `User=bitzel` in a systemd unit, `docker run --user 1000` or \
         `runAsUser: 1000` in Kubernetes; or, where nobody else can send Actions, add --allow-root (BITZEL_ALLOW_ROOT=true)",
    ))
}

/// Warns about Actions that run as root, unless the user has allowed it.
pub(crate) fn warn(is_allowed: bool) {
    if !is_allowed && is_root() {
        console::warn(&format!(
            "Actions run as root: {RISK}; start the server as another user, or silence this with --allow-root"
        ));
    }
}

/// Logs that the Actions of a build run as root. Not more: they are those of the user's own layers, and builds in
/// containers mostly run as root.
pub(crate) fn log() {
    if is_root() {
        tracing::warn!("Actions run as root: {RISK}");
    }
}

/// True if this process is root of the machine, not of a user namespace, such as that of a rootless container.
fn is_root() -> bool {
    geteuid().is_root() && fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| maps_root_to_itself(&map))
}

/// True if the user 0 of a namespace with this `uid_map` is that of its parent.
fn maps_root_to_itself(map: &str) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace();
        (numbers.next(), numbers.next()) == (Some("0"), Some("0"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_of_a_rootless_container_is_not_the_machines() {
        assert!(maps_root_to_itself("         0          0 4294967295\n"));
        assert!(!maps_root_to_itself(
            "         0       1000          1\n         1     100000      65536\n"
        ));
    }
}
