//! Namespaces that all commands of a launcher share.

use std::fs;
use std::io;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getgid, getuid};
use rustix::thread::UnshareFlags;

use crate::failure::{Failure, InStep as _};
use crate::network;
use crate::raw_calls::unshare;

/// Enters user and mount namespaces in which this process is root over what belongs to the worker's user, and unless
/// the commands have access to the machine's `network`, a network namespace with loopback alone.
pub(crate) fn enter(network: bool) -> Result<(), Failure> {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS).in_step("unshare user and mount namespaces")?;
    let write = |path: &str, text: &str| fs::write(path, text).in_step(format_args!("write {path}"));
    write("/proc/self/setgroups", "deny")?;
    write("/proc/self/uid_map", &format!("0 {uid} 1"))?;
    write("/proc/self/gid_map", &format!("0 {gid} 1"))?;
    // Slaves: what the machine mounts and unmounts later happens here too, and nothing from here happens there.
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )
    .in_step("make the mounts of the new namespace private")?;
    if !network {
        unshare(UnshareFlags::NEWNET).in_step("unshare the network namespace")?;
        network::bring_loopback_up().in_step("set up loopback")?;
    }
    // Older kernels lack it, and some machines forbid it.
    let _ = unshare(UnshareFlags::NEWCGROUP);
    // With one of its own a command could mount the worker's cgroup, and change it if that belongs to the worker's user.
    match fs::write("/proc/sys/user/max_cgroup_namespaces", "0") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.in_step("forbid further cgroup namespaces"),
    }
}
