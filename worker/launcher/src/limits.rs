//! Limits of the kernel for each user: a share of them for each launcher.
//!
//! The kernel counts these things for the worker's user, so that one command could take all of them from the others.
//! User namespaces count too, each with those below it: a limit in the launcher's namespace bounds its commands alone.

use std::fs;
use std::io;

use bitzel_launcher::WatchedBounds;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::system::uname;

use crate::failure::{Failure, InStep as _};

/// Limits in `/proc/sys/user`, see namespaces(7) and inotify(7).
const USER_LIMITS: [&str; 9] = [
    "max_inotify_instances",
    "max_inotify_watches",
    "max_user_namespaces",
    "max_mnt_namespaces",
    "max_pid_namespaces",
    "max_net_namespaces",
    "max_ipc_namespaces",
    "max_uts_namespaces",
    "max_time_namespaces",
];
/// Limits of resources that are counted for the user.
const RESOURCES: [Resource; 2] = [Resource::Sigpending, Resource::Msgqueue];
/// Share of each limit that one launcher gets: one part of this many.
const SHARES: u64 = 8;
/// Smallest share: the kernel frees namespaces some time after their last process has ended.
const MIN_SHARE: u64 = 16;
/// Processes beyond the bound and an eighth of it: those of the sandbox itself, and some that the watch sees.
const SPARE_PROCESSES: u64 = 64;
/// Kernel that counts processes for each user namespace. Earlier ones count those of the whole machine.
const COUNTS_BY_NAMESPACE: (u32, u32) = (5, 14);
/// Chance of the commands to be killed when the machine has no memory left, from -1000 to 1000: before the worker.
const OUT_OF_MEMORY_SCORE: &str = "500";

/// Limits of the worker's user namespace.
pub(crate) struct UserLimits(Vec<(String, u64)>);

impl UserLimits {
    /// Reads the limits, before the launcher enters a user namespace of its own.
    pub(crate) fn read() -> Self {
        let limits = USER_LIMITS.iter().filter_map(|name| {
            let path = format!("/proc/sys/user/{name}");
            // Not every kernel has all of them.
            let limit = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
            Some((path, limit))
        });
        Self(limits.collect())
    }

    /// Sets the shares in the launcher's own user namespace.
    pub(crate) fn share(&self) -> Result<(), Failure> {
        for (path, limit) in &self.0 {
            let share = (limit / SHARES).max(MIN_SHARE).min(*limit);
            fs::write(path, share.to_string()).in_step(format_args!("write {path}"))?;
        }
        Ok(())
    }
}

/// Limits this process and all commands.
pub(crate) fn limit_resources(bounds: &WatchedBounds) -> io::Result<()> {
    for resource in RESOURCES {
        let Rlimit { maximum, .. } = getrlimit(resource);
        if let Some(maximum) = maximum {
            set(resource, maximum / SHARES)?;
        }
    }
    // A little more than the bound: the watch finds the processes that have come so far, and tells why it stops them.
    if let Some(bound) = bounds.processes
        && counts_by_namespace()
    {
        let limit = bound.saturating_add(bound / 8).saturating_add(SPARE_PROCESSES);
        let Rlimit { maximum, .. } = getrlimit(Resource::Nproc);
        set(
            Resource::Nproc,
            maximum.map_or(limit, |maximum| maximum.min(limit)),
        )?;
    }
    Ok(())
}

/// Lets the kernel kill a command rather than the worker when the machine has no memory left.
pub(crate) fn prefer_as_victim() {
    // Without it, the kernel takes who has most, which is mostly a command.
    let _ = fs::write("/proc/self/oom_score_adj", OUT_OF_MEMORY_SCORE);
}

fn set(resource: Resource, limit: u64) -> io::Result<()> {
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    Ok(setrlimit(resource, limit)?)
}

fn counts_by_namespace() -> bool {
    let name = uname();
    version(&name.release().to_string_lossy()).is_some_and(|version| version >= COUNTS_BY_NAMESPACE)
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_of_a_kernel() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("5.4.0"), Some((5, 4)));
        assert_eq!(version("strange"), None);
    }
}
