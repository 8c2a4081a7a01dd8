//! `BuildStream` with a small project.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::program_output::text_of;
use crate::tree::copy_directory;

/// Longer than any of these commands takes; only a command that hangs reaches it.
const TIMEOUT_SECONDS: &str = "120";

/// By default `BuildStream` keeps 5 % of the disk free, and waits forever if less is free.
const SETTINGS: &str = "cache:\n  reserved-disk-space: 0\n";
const PROJECT: &str = "name: peer\nmin-version: 2.0\nelement-path: elements\n";
const IMPORT: &str = "kind: import\nsources:\n- kind: local\n  path: files\n";
/// Composition runs no command, so it needs no sandbox.
const COMPOSE: &str = "kind: compose\nbuild-depends:\n- files.bst\n";

/// An element whose commands run in a sandbox, on the files of `base.bst`.
const MANUAL: &str = "\
kind: manual
build-depends:
- base.bst
config:
  build-commands:
  - echo made > result
  - test ! -e /usr/bin/python3
  install-commands:
  - mkdir -p %{install-root}/usr/share
  - cp result %{install-root}/usr/share/result
";
const BASE: &str = "kind: import\nsources:\n- kind: local\n  path: base\n";
/// Programs of busybox that the shell of [`MANUAL`] starts.
const BUSYBOX_NAMES: [&str; 5] = ["cp", "mkdir", "rm", "sh", "test"];

/// Elements of the project, each of which gives an artifact.
pub const ELEMENTS: usize = 2;

/// A project, and a home directory with `BuildStream`'s local cache.
pub struct BuildStream {
    program: PathBuf,
    directory: TempDir,
}

impl BuildStream {
    /// A project without any builds.
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

    /// A project with the element `made.bst`, which the server at `url` builds, in a root file system with this busybox.
    pub fn with_remote_execution(program: PathBuf, busybox: &Path, url: &str) -> Self {
        let project = Self::new(program);
        let bin = project.path("project/base/bin");
        std::fs::create_dir_all(&bin).expect("a directory");
        std::fs::copy(busybox, bin.join("busybox")).expect("a copy of busybox");
        for name in BUSYBOX_NAMES {
            symlink("busybox", bin.join(name)).expect("a link");
        }
        let services = ["execution-service", "storage-service", "action-cache-service"];
        let services = services
            .map(|service| format!("  {service}:\n    url: {url}\n"))
            .concat();
        let settings = format!("{SETTINGS}remote-execution:\n{services}");
        for (path, text) in [
            ("home/.config/buildstream.conf", settings.as_str()),
            ("project/elements/base.bst", BASE),
            ("project/elements/made.bst", MANUAL),
        ] {
            std::fs::write(project.path(path), text).expect("a file of the project");
        }
        project
    }

    /// The same project with an empty local cache.
    #[must_use]
    pub fn with_empty_cache(&self) -> Self {
        let other = Self::new(self.program.clone());
        std::fs::remove_dir_all(other.path("project")).expect("the project can be removed");
        copy_directory(&self.path("project"), &other.path("project"));
        other
    }

    /// A path inside the directory of project and home.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    /// Runs `bst` with these arguments; panics unless it succeeds. Returns standard output and standard error.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = Command::new("timeout")
            .args(["--kill-after=10", TIMEOUT_SECONDS])
            .arg(&self.program)
            .args(["--no-interactive", "--no-colors"])
            .args(arguments)
            .env("HOME", self.path("home"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .current_dir(self.path("project"))
            .output()
            .expect("bst starts");
        let text = text_of(&output);
        assert!(output.status.success(), "bst {arguments:?} failed:\n{text}");
        text
    }
}
