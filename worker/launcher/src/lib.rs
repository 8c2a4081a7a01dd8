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
    /// Gives the commands access to this machine's network.
    pub network: bool,
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
    },
}
