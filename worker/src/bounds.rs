//! Bounds of each Action.
//!
//! An Action that reaches one fails with an error of its own, which names the figure and the setting to raise. No other
//! Action fails for it. The means are in [`crate::sandbox`], in `cgroup.rs` and in the launcher.

use std::fmt::{self, Display};
use std::fs;
use std::time::Duration;

use bytesize::ByteSize;

/// Target of the log line that tells the bounds of a worker and their means.
pub const BOUNDS_LOG: &str = "bitzel_worker::bounds";

/// Bounds of one Action on this worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bounds {
    /// Memory in bytes: that of processes, and of files in `/tmp` and `/dev/shm`.
    pub memory_bytes: u64,
    /// Number of processes and threads at the same time.
    pub processes: u64,
    /// Space on disk in bytes for changes and logs, in blocks: holes of files do not count.
    pub disk_bytes: u64,
    /// Number of files, directories and symlinks of the input root, as often as they occur. A file with a modification time
    /// is written for each occurrence: those beyond the first of its Directory count 16 times.
    pub input_entries: u64,
    /// Size in bytes of the files of the input root, as often as they occur.
    pub input_bytes: u64,
    /// Number of files, directories and symlinks among the outputs that the command created or changed.
    pub output_entries: u64,
    /// Size in bytes of all outputs that the command created or changed. Holes of files count, since they are hashed and
    /// sent, and so do targets of symlinks.
    pub output_bytes: u64,
    /// Size in bytes of standard output and standard error together.
    pub log_bytes: u64,
    /// Time for the fetch and the assembly of inputs.
    pub input_time: Duration,
    /// Time from the start to the end, with the fetch and the assembly of inputs, the command, and the hashing and the
    /// upload of outputs. `Action.timeout` bounds the command alone.
    pub total_time: Duration,
    /// Network of Actions that ask for one.
    pub network: ActionNetworkSetting,
}

/// Network of Actions with `network=on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ActionNetworkSetting {
    /// An isolated one if this machine can make it, else this machine's.
    #[default]
    Auto,
    /// An isolated one. A worker that cannot make it does not start.
    Isolated,
    /// This machine's, with its loopback and link-local addresses.
    Host,
}

impl Default for Bounds {
    /// Bounds for builds of whole distributions: three quarters of this machine's memory, and more of the rest than any
    /// known recipe needs.
    fn default() -> Self {
        Self {
            memory_bytes: machine_memory() / 4 * 3,
            processes: 8192,
            disk_bytes: 128 << 30,
            input_entries: 2_000_000,
            input_bytes: 256 << 30,
            output_entries: 2_000_000,
            output_bytes: 64 << 30,
            log_bytes: 1 << 30,
            input_time: Duration::from_hours(1),
            total_time: Duration::from_hours(25),
            network: ActionNetworkSetting::default(),
        }
    }
}

/// Memory of this machine, or of the container that this process runs in.
pub(crate) fn machine_memory() -> u64 {
    let system = rustix::system::sysinfo();
    #[expect(clippy::useless_conversion, reason = "its type differs between processors")]
    let total = u64::from(system.totalram).saturating_mul(system.mem_unit.into());
    let container = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = container.and_then(|text| text.trim().parse().ok());
    limit.map_or(total, |limit| total.min(limit))
}

/// One of the [`Bounds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// [`Bounds::memory_bytes`].
    Memory,
    /// [`Bounds::processes`].
    Processes,
    /// [`Bounds::disk_bytes`].
    Disk,
    /// [`Bounds::input_entries`].
    InputEntries,
    /// [`Bounds::input_bytes`].
    InputBytes,
    /// [`Bounds::output_entries`].
    OutputEntries,
    /// [`Bounds::output_bytes`].
    OutputBytes,
    /// [`Bounds::log_bytes`].
    LogBytes,
}

/// An Action that needs more than a bound allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoundReached {
    /// The bound.
    pub bound: Bound,
    /// What the Action needs; `None` if only the kernel knows.
    pub used: Option<u64>,
    /// What it may use.
    pub allowed: u64,
}

impl std::error::Error for BoundReached {}

impl Display for BoundReached {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bound, used, allowed } = *self;
        let (reason, key, option) = bound.texts();
        write!(formatter, "{reason}: ")?;
        if let Some(used) = used {
            write!(formatter, "{}, and ", bound.figure(used))?;
        }
        write!(
            formatter,
            "this worker allows {}; if the Action needs that much, raise `{key}` of [execution.bounds], or {option} of \
             the worker",
            bound.figure(allowed)
        )
    }
}

impl Bound {
    /// The reason of an error, the key in the configuration file, and the command-line option.
    fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Memory => ("the Action uses too much memory", "memory", "--action-memory"),
            Self::Processes => (
                "the Action has too many processes and threads",
                "processes",
                "--action-processes",
            ),
            Self::Disk => (
                "the changes and logs of the Action take too much disk space",
                "disk",
                "--action-disk",
            ),
            Self::InputEntries => (
                "the input root has too many files, directories and symlinks (repeated files with times count 16 times)",
                "input_entries",
                "--action-input-entries",
            ),
            Self::InputBytes => ("the input root is too large", "input_size", "--action-input-size"),
            Self::OutputEntries => (
                "the outputs have too many files, directories and symlinks",
                "output_entries",
                "--action-output-entries",
            ),
            Self::OutputBytes => ("the outputs are too large", "output_size", "--action-output-size"),
            Self::LogBytes => (
                "standard output and error are too large",
                "log_size",
                "--action-log-size",
            ),
        }
    }

    fn figure(self, value: u64) -> String {
        match self {
            Self::Memory | Self::Disk | Self::InputBytes | Self::OutputBytes | Self::LogBytes => size(value),
            Self::Processes | Self::InputEntries | Self::OutputEntries => value.to_string(),
        }
    }
}

/// A number of bytes, for people.
pub(crate) fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_figures_and_the_settings() {
        let reached = BoundReached {
            bound: Bound::Disk,
            used: Some(3 << 30),
            allowed: 1 << 30,
        };
        assert_eq!(
            reached.to_string(),
            "the changes and logs of the Action take too much disk space: 3.0 GiB, and this worker allows 1.0 GiB; if the \
             Action needs that much, raise `disk` of [execution.bounds], or --action-disk of the worker"
        );
        let reached = BoundReached {
            bound: Bound::Processes,
            used: None,
            allowed: 9,
        };
        let start = "the Action has too many processes and threads: this worker allows 9; if";
        assert!(reached.to_string().starts_with(start), "{reached}");
    }

    #[test]
    fn the_default_memory_is_a_part_of_the_machine() {
        let total = fs::read_to_string("/proc/meminfo").unwrap();
        let kibibytes: u64 = total.split_whitespace().nth(1).unwrap().parse().unwrap();
        let memory = Bounds::default().memory_bytes;
        assert!(memory > 0 && memory < kibibytes << 10, "{memory}");
    }
}
