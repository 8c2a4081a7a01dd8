//! Protocol between a client and the launcher in a portable Action.
//!
//! A portable Action runs on any execution service of the Remote Execution API. Its input root has the launcher itself
//! ([`LAUNCHER`]), which is its command, a [`PortableRequest`] ([`REQUEST`]), the tree that the wrapped command sees at
//! `/work` ([`TREE`]) and, if it brings one, the image root ([`IMAGE_ROOT`]). The launcher leaves one directory
//! ([`OUTPUTS`]): a [`PortableOutcome`] ([`OUTCOME`]) and the contents of changed files. Modes, times and hardlinks travel
//! in these two messages, since most services drop them. See `docs/decisions/0050-any-execution-engine.md`.
//!
//! Client and launcher have one version: the launcher is in the input root.

use serde::{Deserialize, Serialize};

use crate::LaunchReport;

/// Argument of the launcher that makes it run the portable Action in its working directory.
pub const RUN_ARGUMENT: &str = "run-portable-action";
/// Argument of the launcher that makes it succeed and do nothing: the command of a check.
pub const NOTHING_ARGUMENT: &str = "do-nothing";
/// The launcher in the input root.
pub const LAUNCHER: &str = "bitzel-launcher";
/// The [`PortableRequest`] as JSON in the input root.
pub const REQUEST: &str = "bitzel-request.json";
/// The tree of the command in the input root.
pub const TREE: &str = "work";
/// The image root in the input root.
pub const IMAGE_ROOT: &str = "root";
/// The only output of the Action, a directory.
pub const OUTPUTS: &str = "bitzel-outputs";
/// The [`PortableOutcome`] as JSON in [`OUTPUTS`].
pub const OUTCOME: &str = "outcome.json";
/// Files in one directory of contents: the message of a larger one could exceed the limit of a gRPC message.
const CONTENTS_PER_DIRECTORY: u64 = 1000;
/// Undeclared writes that an outcome names.
pub const MAX_UNDECLARED_PATHS: usize = 20;

/// Path of a content in [`OUTPUTS`].
pub fn content_path(content: u64) -> String {
    format!("contents/{}/{content}", content / CONTENTS_PER_DIRECTORY)
}

/// Modification time: seconds since 1970, and nanoseconds.
pub type Time = (i64, u32);

/// Command of a portable Action, with everything that its input root cannot say.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PortableRequest {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The whole environment. The last of equal names counts.
    pub environment: Vec<(String, String)>,
    /// Directory that the command starts in, relative to the tree.
    pub working_directory: String,
    /// Leaves the command the network of the engine's worker. It has loopback of its own otherwise.
    pub network: bool,
    /// Allows the command to create user namespaces.
    pub user_namespaces: bool,
    /// Runs the command in [`IMAGE_ROOT`] instead of the root of the engine's worker.
    pub image_root: bool,
    /// Outputs, relative to the tree.
    pub outputs: Vec<String>,
    /// Directories of the tree with an attribute of their own or of an entry.
    pub directories: Vec<DirectoryAttributes>,
}

/// Attributes of a directory and its entries.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryAttributes {
    /// Path relative to the tree; empty for the tree itself.
    pub path: String,
    /// Attributes of the directory.
    #[serde(flatten)]
    pub attributes: Attributes,
    /// Files with attributes, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<(String, Attributes)>,
    /// Modification times of symlinks, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub symlinks: Vec<(String, Time)>,
}

/// Attributes of a file or a directory that differ from the defaults of an input.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Mode: permissions, setuid, setgid and sticky bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Modification time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime: Option<Time>,
    /// Files of one group are names of one inode. The value is the path of the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

/// Outcome of a portable Action.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortableOutcome {
    /// Outcome of the command.
    pub report: LaunchReport,
    /// Nodes of the outputs that exist, by path relative to the tree. A directory comes before its entries.
    pub outputs: Vec<(String, OutputNode)>,
    /// The first paths outside of the outputs that the command created, changed or deleted, sorted.
    pub undeclared: Vec<String>,
    /// Number of all such paths.
    pub undeclared_count: u64,
}

/// Node of an output.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputNode {
    /// As in the input, with everything below it.
    Unchanged,
    /// Created or changed file.
    File {
        /// Number of its content, see [`content_path`]. Names of one inode have the same.
        content: u64,
        /// Mode.
        mode: u32,
        /// Modification time.
        mtime: Time,
    },
    /// Created or changed symlink.
    Symlink {
        /// Its target.
        target: String,
        /// Modification time.
        mtime: Time,
    },
    /// Directory with a change in or below it. All its entries follow.
    Directory {
        /// Mode.
        mode: u32,
        /// Modification time.
        mtime: Time,
    },
}
