//! Access of commands to what belongs to the user of this machine, for an executor inside the user's own program.

use std::path::PathBuf;

/// Directory in the sandbox with the user's files. Its name is the same for everybody, so that outputs do not depend on it.
pub const USER_HOME: &str = "/run/bitzel";

/// Files and variables of the user that all commands of an executor get. Nothing of it is part of an Action, so it is not
/// in the store.
#[derive(Debug, Clone, Default)]
pub struct UserAccess {
    /// Files, directories and sockets of this machine, each with its path below [`USER_HOME`]. Commands see them read-only.
    pub mounts: Vec<(PathBuf, String)>,
    /// Variables in addition to those of the Command.
    pub environment: Vec<(String, String)>,
}

impl UserAccess {
    /// Home directory of the user of commands in the sandbox.
    pub(crate) fn home(access: Option<&Self>) -> &'static str {
        match access {
            Some(_) => USER_HOME,
            None => "/tmp",
        }
    }

    /// Arguments of bubblewrap for the mounts.
    pub(crate) fn bubblewrap_arguments(&self) -> Vec<String> {
        let mut arguments = vec!["--tmpfs".to_owned(), "/run".to_owned()];
        for (source, path) in &self.mounts {
            let source = source.to_string_lossy().into_owned();
            arguments.extend(["--ro-bind".to_owned(), source, format!("{USER_HOME}/{path}")]);
        }
        arguments.extend(["--dir", USER_HOME, "--remount-ro", "/run"].map(str::to_owned));
        arguments
    }
}
