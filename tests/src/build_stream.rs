//! `BuildStream` on a small project of its own.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::site::copy_directory;

/// Longer than any of these commands takes; only one that hangs reaches it.
const HANGING_SECONDS: &str = "120";

/// `BuildStream` keeps 5 % of the disk free otherwise, and waits for ever where less is.
const SETTINGS: &str = "cache:\n  reserved-disk-space: 0\n";
const PROJECT: &str = "name: peer\nmin-version: 2.0\nelement-path: elements\n";
const IMPORT: &str = "kind: import\nsources:\n- kind: local\n  path: files\n";
/// Composing runs no command, so no sandbox has to be there.
const COMPOSE: &str = "kind: compose\nbuild-depends:\n- files.bst\n";

/// Elements of the project, and so artifacts.
pub const ELEMENTS: usize = 2;

/// A project, and a home directory that holds `BuildStream`'s local cache.
pub struct BuildStream {
    program: PathBuf,
    directory: TempDir,
}

impl BuildStream {
    /// A project of which nothing was built.
    pub fn new(program: PathBuf) -> Self {
        let directory = TempDir::with_prefix("bitzel-buildstream-").expect("a temporary directory");
        let files = [
            ("home/.config/buildstream.conf", SETTINGS),
            ("project/project.conf", PROJECT),
            ("project/elements/files.bst", IMPORT),
            ("project/elements/all.bst", COMPOSE),
            ("project/files/usr/share/hello", "hello\n"),
            ("project/files/empty", ""),
        ];
        for (path, text) in files {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("a directory");
            std::fs::write(path, text).expect("a file of the project");
        }
        Self { program, directory }
    }

    /// The same project with an empty local cache.
    #[must_use]
    pub fn with_empty_cache(&self) -> Self {
        let other = Self::new(self.program.clone());
        std::fs::remove_dir_all(other.path("project")).expect("the project can be removed");
        copy_directory(&self.path("project"), &other.path("project"));
        other
    }

    /// A path beside the project.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// Runs `bst` with these arguments, which has to succeed, and gives all that it said.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("timeout")
            .args(["--kill-after=10", HANGING_SECONDS])
            .arg(&self.program)
            .args(["--no-interactive", "--no-colors"])
            .args(arguments)
            .env("HOME", self.path("home"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(self.path("project"))
            .output()
            .expect("bst starts");
        let text = [&output.stdout, &output.stderr].map(|part| String::from_utf8_lossy(part).into_owned());
        let text = text.concat();
        assert!(output.status.success(), "bst {arguments:?} failed:\n{text}");
        text
    }
}
