//! Root file systems of Debian releases, in which workers run as on a machine of that release.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::{bitzel_program, project_directory};
use crate::program_output::run;
use crate::site::Site;

/// Environment variable with the directory of the roots.
const VARIABLE: &str = "BITZEL_TEST_ROOTS";

/// Directories that every Debian root has and that are empty: places for the program and for a worker's cache.
const PROGRAM_PLACE: &str = "/srv";
const CACHE_PLACE: &str = "/mnt";

/// Root file system that `make setup` made with mmdebstrap.
pub struct DebianRoot(PathBuf);

impl DebianRoot {
    /// The root of a release, such as `bookworm`. `None` if it was not made.
    pub fn find(release: &str) -> Option<Self> {
        let roots =
            std::env::var_os(VARIABLE).map_or_else(|| project_directory().join(".demo/roots"), PathBuf::from);
        let root = roots.join(release);
        root.join("usr/bin/gcc").is_file().then_some(Self(root))
    }

    /// The root file system.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Copies what runs Python and the shell, with some 2,600 files of 170 MB: no compiler, headers, manuals or package
    /// database.
    pub fn copy_without_compiler(&self, destination: &Path) {
        let excluded = [
            "./usr/include/*",
            "./usr/share/*",
            "./var/*",
            "*/gcc/*",
            "*/gconv/*",
            "*.a",
            "*.pyc",
        ];
        let mut pack = Command::new("tar");
        pack.arg("-C")
            .arg(&self.0)
            .args(["-cf", "-", "--one-file-system"]);
        pack.args(excluded.map(|pattern| format!("--exclude={pattern}")));
        let mut pack = pack.arg(".").stdout(Stdio::piped()).spawn().expect("tar starts");
        let archive = pack.stdout.take().expect("a pipe");
        let mut unpack = Command::new("tar");
        unpack
            .args(["--no-same-owner", "-xf", "-", "-C"])
            .arg(destination);
        let unpacked = unpack.stdin(archive).status().expect("tar starts");
        assert!(unpacked.success() && pack.wait().expect("tar ends").success());
    }

    /// The answer of `bitzel root identity` in this root.
    pub fn identity(&self, site: &Site) -> String {
        let mut command = self.command(&site.path("home"));
        run(command.args(["root", "identity"])).trim().to_owned()
    }

    /// Starts a worker in this root that takes Actions from `server` and has its cache in `cache`.
    pub fn start_worker(&self, cache: &Path, server: &str) -> RootedWorker {
        let mut command = self.command(cache);
        let process = command
            // Root of this namespace may be root of the machine.
            .args(["worker", "--allow-root", "--cache-dir", CACHE_PLACE, server])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("bubblewrap starts");
        RootedWorker(process)
    }

    /// The bitzel program in this root, which is read-only but for `cache`.
    fn command(&self, cache: &Path) -> Command {
        let program = bitzel_program();
        let name = program.file_name().expect("a program has a name");
        let mut command = Command::new("bwrap");
        command.args(["--die-with-parent", "--clearenv"]);
        command.arg("--ro-bind").arg(&self.0).arg("/");
        // Not a new /proc: bubblewrap hides parts of it, and then the kernel lets the worker's sandboxes mount none.
        command.args([
            "--dev-bind",
            "/dev",
            "/dev",
            "--dev-bind",
            "/proc",
            "/proc",
            "--tmpfs",
            "/tmp",
        ]);
        command
            .arg("--ro-bind")
            .arg(program.parent().expect("a directory"))
            .arg(PROGRAM_PLACE);
        command.arg("--bind").arg(cache).arg(CACHE_PLACE);
        command.args(["--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.args(["--setenv", "HOME", "/tmp", "--chdir", "/"]);
        command.arg("--").arg(Path::new(PROGRAM_PLACE).join(name));
        command
    }
}

/// A worker in a root of its own. Ended when it is dropped.
pub struct RootedWorker(Child);

impl RootedWorker {
    /// Panics if the worker has ended by itself. Its message is on standard error.
    pub fn assert_runs(&mut self) {
        let status = self.0.try_wait().expect("a status");
        assert!(status.is_none(), "the worker ended: {status:?}");
    }
}

impl Drop for RootedWorker {
    fn drop(&mut self) {
        // A worker that has ended has no process to signal.
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let _ = self.0.wait();
        }
    }
}
