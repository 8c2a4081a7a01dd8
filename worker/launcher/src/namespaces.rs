//! Namespaces that all commands of a launcher share.

use std::fs;
use std::io;

use bitzel_launcher::Network;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::{getgid, getuid};
use rustix::thread::UnshareFlags;

use crate::failure::{Failure, InStep as _};
use crate::raw_calls::unshare;
use crate::{isolated_network, network};

/// Enters user and mount namespaces in which this process is root over what belongs to the worker's user, and unless
/// the commands have the machine's `network`, a network namespace.
pub(crate) fn enter(network: &Network) -> Result<(), Failure> {
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
    match network {
        Network::Loopback => {
            unshare(UnshareFlags::NEWNET).in_step("unshare the network namespace")?;
            network::bring_loopback_up().in_step("set up loopback")?;
        }
        Network::Isolated(settings) => isolated_network::enter(settings)?,
        Network::Host => {}
    }
    // Older kernels lack it, and some machines forbid it.
    let _ = unshare(UnshareFlags::NEWCGROUP);
    // With one of its own a command could mount the worker's cgroup, and change it if that belongs to the worker's user.
    match fs::write("/proc/sys/user/max_cgroup_namespaces", "0") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.in_step("forbid further cgroup namespaces"),
    }
}
