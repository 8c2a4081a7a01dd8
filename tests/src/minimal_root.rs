//! A root file system with nothing but bubblewrap and bitzel's program: no compiler, no Python, not even a shell.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::program::bitzel_program;
use crate::program_output::run;
use crate::site::Site;

/// `cat` and `true` are what a sandbox on this root itself runs when a worker starts.
const PROGRAMS: [&str; 3] = ["bwrap", "cat", "true"];
/// Directories that others are mounted on.
const MOUNT_POINTS: [&str; 4] = ["dev", "etc", "proc", "srv"];

/// The root, on the disk of this machine. Removed when it is dropped.
pub struct MinimalRoot {
    directory: TempDir,
}

impl MinimalRoot {
    /// Copies programs of this machine with their libraries.
    pub fn create() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = Self { directory };
        for name in MOUNT_POINTS {
            fs::create_dir(root.path().join(name)).expect("a directory");
        }
        for name in ["bin", "lib", "lib64", "sbin"] {
            fs::create_dir_all(root.path().join("usr").join(name)).expect("a directory");
            symlink(format!("usr/{name}"), root.path().join(name)).expect("a symlink");
        }
        let mut libraries = libraries_of(bitzel_program());
        for name in PROGRAMS {
            let program = Path::new("/usr/bin").join(name);
            libraries.extend(libraries_of(&program));
            copy(&program, &root.path().join("usr/bin").join(name));
        }
        for library in libraries {
            let relative = library.strip_prefix("/").expect("an absolute path");
            let relative = relative.strip_prefix("usr").unwrap_or(relative);
            copy(&library, &root.path().join("usr").join(relative));
        }
        root
    }

    /// The root file system.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A subcommand of bitzel on this root, with the build directory and the cache of a site, and with `visible`
    /// directories of this machine.
    pub fn bitzel(&self, site: &Site, visible: &[PathBuf]) -> Command {
        let program = bitzel_program();
        let mut command = Command::new("bwrap");
        command.args(["--die-with-parent", "--clearenv"]);
        for entry in fs::read_dir(self.path()).expect("the root") {
            let path = entry.expect("an entry").path();
            let name = Path::new("/").join(path.file_name().expect("a name"));
            match fs::read_link(&path) {
                Ok(target) => command.arg("--symlink").arg(target).arg(name),
                Err(_) => command.arg("--ro-bind").arg(&path).arg(name),
            };
        }
        // Not a new /proc: bubblewrap hides parts of it, and then the kernel lets the worker's sandboxes mount none.
        command.args(["--dev-bind", "/dev", "/dev", "--dev-bind", "/proc", "/proc"]);
        command.args(["--tmpfs", "/tmp"]);
        for path in visible {
            command.arg("--ro-bind").arg(path).arg(path);
        }
        let site_directory = site.path("");
        command.arg("--bind").arg(&site_directory).arg(&site_directory);
        command
            .arg("--ro-bind")
            .arg(program.parent().expect("a directory"))
            .arg("/srv");
        command.args(["--setenv", "PATH", "/usr/bin", "--chdir", "/"]);
        command.arg("--setenv").arg("HOME").arg(site.path("home"));
        command.arg("--setenv").arg("XDG_CACHE_HOME").arg(site.cache());
        let name = program.file_name().expect("a program has a name");
        command.arg("--").arg(Path::new("/srv").join(name));
        command
    }
}

/// Libraries that the dynamic linker loads for a program.
fn libraries_of(program: &Path) -> BTreeSet<PathBuf> {
    run(Command::new("ldd").arg(program))
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().expect("a directory")).expect("a directory");
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}
