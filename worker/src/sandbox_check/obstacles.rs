//! Facts about this machine that forbid sandboxes. Reading them and judging them are apart, so that each is tested with
//! the facts of machines that are not here.

use std::fs;
use std::path::{Path, PathBuf};

use super::probes::refused_system_calls;

/// A mount below `/proc` that covers nothing: the kernel keeps this directory empty for it.
const HARMLESS_PROC_MOUNT: &str = "/proc/sys/fs/binfmt_misc";

/// Facts that the check looks at.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Directory of the file cache, absolute.
    pub(super) cache_directory: PathBuf,
    /// System calls that a seccomp profile refuses.
    pub(super) refused_calls: Vec<&'static str>,
    /// Content of `/proc/self/attr/current`: the profile or context of the security module.
    pub(super) security_label: String,
    /// Content of `/proc/self/mountinfo`.
    pub(super) mounts: String,
}

impl Facts {
    pub(super) fn gather(cache_directory: &Path) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            cache_directory: std::path::absolute(cache_directory)
                .unwrap_or_else(|_| cache_directory.to_owned()),
            refused_calls: refused_system_calls(),
            // The kernel ends it with a zero byte on some machines.
            security_label: read("/proc/self/attr/current")
                .trim_matches(['\0', '\n'])
                .to_owned(),
            mounts: read("/proc/self/mountinfo"),
        }
    }

    /// One line for each obstacle.
    pub(super) fn obstacles(&self) -> Vec<String> {
        [
            self.seccomp(),
            self.security_module(),
            self.covered_proc(),
            self.unusable_file_system(),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn seccomp(&self) -> Option<String> {
        (!self.refused_calls.is_empty()).then(|| {
            format!(
                "a seccomp profile refuses the system calls {}: in Kubernetes, install the chart's profile on the node \
                 and set `seccompProfile` to type Localhost (helm/README.md)",
                self.refused_calls.join(", ")
            )
        })
    }

    fn security_module(&self) -> Option<String> {
        if let Some(profile) = self.security_label.strip_suffix(" (enforce)") {
            return Some(format!(
                "the AppArmor profile {profile} confines this process: it needs the rules `userns,`, `mount,`, `umount,` \
                 and `pivot_root,`, which the default profiles of container runtimes lack; in Kubernetes set \
                 `appArmorProfile` (helm/README.md)"
            ));
        }
        let domain = self.security_label.split(':').nth(2)?;
        domain.contains("container").then(|| {
            format!(
                "SELinux confines this process to {domain}: its policy needs `allow {domain} proc_t:filesystem mount` and \
                 `allow {domain} devpts_t:filesystem mount`"
            )
        })
    }

    fn covered_proc(&self) -> Option<String> {
        let covered: Vec<_> = self
            .mount_points()
            .map(|(point, _)| point)
            .filter(|point| point.starts_with("/proc/") && *point != HARMLESS_PROC_MOUNT)
            .collect();
        let first = covered.first()?;
        Some(format!(
            "{first} and other parts of /proc, {} in all, are covered by mounts, so the kernel lets no sandbox mount a \
             /proc of its own: in Kubernetes set `procMount: Unmasked` and `hostUsers: false`",
            covered.len()
        ))
    }

    fn unusable_file_system(&self) -> Option<String> {
        // Later lines are mounted over earlier ones.
        let (_, kind) = self
            .mount_points()
            .filter(|(point, _)| self.cache_directory.starts_with(point))
            .reduce(|best, next| if next.0.len() >= best.0.len() { next } else { best })?;
        matches!(kind, "overlay" | "nfs" | "nfs4" | "9p" | "cifs").then(|| {
            format!(
                "{} lies on a file system of the type {kind}: overlays of Actions need ext4, xfs or btrfs; in a \
                 container, use a volume",
                self.cache_directory.display()
            )
        })
    }

    /// Mount points and the types of their file systems, in the order in which they were mounted. Mount points with
    /// spaces keep the kernel's escapes, which matters to none of the checks.
    fn mount_points(&self) -> impl Iterator<Item = (&str, &str)> {
        self.mounts.lines().filter_map(|line| {
            let (mount, file_system) = line.split_once(" - ")?;
            Some((mount.split(' ').nth(4)?, file_system.split(' ').next()?))
        })
    }
}

#[cfg(test)]
mod tests;
