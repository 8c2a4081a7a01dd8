//! Protocol between the worker and the sandbox launcher.
//!
//! The launcher's standard input is a Unix stream socket; the worker has its other end. Both sides send messages of one
//! line each: a JSON object and a line feed.
//!
//! 1. The worker sends one [`LauncherSetup`].
//! 2. The worker sends a [`LaunchRequest`], and no other before the answer.
//! 3. The launcher sends a [`LaunchAnswer`] when the last process of the command has ended.
//! 4. If the answer says `reusable`, they go on with step 2. Otherwise the launcher exits.
//!
//! When the worker closes its end, the launcher kills all processes of the command and exits after the last of them.
//! If the launcher closes its end without an answer, the worker starts another one.
//!
//! Worker and launcher are built together, so the protocol has no version.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Directory that holds the input root in the command's file system. The launcher itself, which has no overlay there,
/// sees the worker's directory.
pub const INPUT_ROOT: &str = "/work";

/// Settings that all commands of a launcher share.
#[derive(Debug, Serialize, Deserialize)]
pub struct LauncherSetup {
    /// Arguments of bubblewrap that build the file system, without a command. They mount the launcher's working
    /// directory, which is the worker's directory, at [`INPUT_ROOT`].
    pub bubblewrap: Vec<String>,
    /// Files of the sandbox itself. Each launcher has inodes of its own for them: a lock or a lease on one cannot stop
    /// a command of another launcher.
    pub files: Vec<SandboxFile>,
    /// Image root that the arguments of bubblewrap refer to. `None` if they refer to the machine's own root.
    pub image_root: Option<ImageRootMount>,
    /// Gives the commands access to this machine's network.
    pub network: bool,
    /// Bounds that this launcher watches for each command.
    pub bounds: WatchedBounds,
}

/// Read-only overlay of an image root, which the launcher mounts for itself before it calls bubblewrap. It gives each
/// launcher inodes of its own: a lock on one cannot stop a command of another launcher. Paths are relative to the
/// worker's directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageRootMount {
    /// Directories of the overlay, uppermost first.
    pub lower_directories: Vec<String>,
    /// Directory that the overlay is mounted on. It may be one of the lower ones.
    pub mount_point: String,
}

/// Small read-only file of the sandbox.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxFile {
    /// Absolute path in the sandbox.
    pub path: String,
    /// Content.
    pub content: String,
}

/// Bounds of one command that a launcher watches. `None` if something else enforces a bound, such as a cgroup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchedBounds {
    /// Memory in bytes: that of processes, and of files in `/tmp` and `/dev/shm`.
    pub memory_bytes: Option<u64>,
    /// Number of processes and threads.
    pub processes: Option<u64>,
    /// Space on disk in bytes that the command's changes and logs take.
    pub disk_bytes: Option<u64>,
    /// Size in bytes of standard output and standard error together.
    pub log_bytes: Option<u64>,
}

/// One of the [`WatchedBounds`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchedBound {
    /// `memory_bytes`.
    Memory,
    /// `processes`.
    Processes,
    /// `disk_bytes`.
    Disk,
    /// `log_bytes`.
    Log,
}

/// Shortest time between two looks at the memory and the processes of a command. The first look is after that time,
/// so short commands cost nothing.
pub const PROCESS_WATCH_INTERVAL: Duration = Duration::from_millis(200);
/// Shortest time between two looks at the disk space and the logs of a command.
pub const DISK_WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// Longest time between two looks at the memory and the processes of a command. A command chooses how long a look takes,
/// and must not make the watch blind with it.
pub const MAX_PROCESS_WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// Longest time between two looks at the disk space and the logs of a command.
pub const MAX_DISK_WATCH_INTERVAL: Duration = Duration::from_secs(10);
/// Part of the time that a look takes: after a long look the next one is later, so that the watch of a large tree takes
/// two percent of a processor, up to the longest interval.
pub const WATCH_INTERVALS_PER_LOOK: u32 = 50;

/// Time until the look after one that took `look`.
pub fn watch_interval(look: Duration, shortest: Duration, longest: Duration) -> Duration {
    look.saturating_mul(WATCH_INTERVALS_PER_LOOK)
        .clamp(shortest, longest)
}

/// Command to run. Paths are relative to the worker's directory, so that many layers fit into the 4,096 bytes that the
/// kernel takes as options of a mount.
#[derive(Debug, Serialize, Deserialize)]
pub struct LaunchRequest {
    /// Lower layers of the overlay, uppermost first. Without any there is no overlay: the command sees
    /// `upper_directory` itself.
    pub lower_directories: Vec<String>,
    /// Upper directory of the overlay.
    pub upper_directory: String,
    /// Empty directory for overlayfs's own use, on the same file system as `upper_directory`.
    pub overlay_work_directory: String,
    /// Program and arguments; at least the program.
    pub command: Vec<String>,
    /// The whole environment. The last of equal names counts.
    pub environment: Vec<(String, String)>,
    /// Absolute path of the directory that the command starts in.
    pub working_directory: String,
    /// Allows the command to create user namespaces.
    pub user_namespaces: bool,
    /// File for standard output, created if it does not exist.
    pub stdout: String,
    /// File for standard error, created if it does not exist.
    pub stderr: String,
}

/// Answer to a request.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchAnswer {
    /// Outcome of the command.
    pub report: LaunchReport,
    /// True if the launcher takes another request. It exits otherwise.
    pub reusable: bool,
}

/// Outcome of a command.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LaunchReport {
    /// The command ran and ended with this code: 128 plus the signal's number if a signal ended it.
    Exited(i32),
    /// The sandbox is set up, but the program cannot be executed.
    CommandNotStarted(
        /// The program's name and the system's reason.
        String,
    ),
    /// A step before the command failed.
    Failed {
        /// Name of the step.
        step: String,
        /// The system's reason.
        reason: String,
        /// Number of the system's error, if that is the reason.
        errno: Option<i32>,
    },
    /// The command used more than it may. All its processes were killed.
    BoundReached {
        /// The bound.
        bound: WatchedBound,
        /// What the command used when this was noticed.
        used: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_looks_delay_the_next_one_to_a_limit() {
        let next = |milliseconds| {
            let look = Duration::from_millis(milliseconds);
            watch_interval(look, DISK_WATCH_INTERVAL, MAX_DISK_WATCH_INTERVAL)
        };
        assert_eq!(next(1), DISK_WATCH_INTERVAL);
        assert_eq!(next(100), Duration::from_secs(5));
        assert_eq!(next(60_000), Duration::from_secs(10));
        assert_eq!(next(u64::MAX), Duration::from_secs(10));
    }
}
