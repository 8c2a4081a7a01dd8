//! PostgreSQL of a test: a server of its own in a temporary directory, on a Unix socket.
//!
//! `scheduler` includes this file in its own tests too, so it uses nothing else of this crate.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// User `nobody` of Debian: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65534;
/// Part of the socket's name.
const DEFAULT_PORT: u16 = 5432;
/// Longer than a start takes on a slow machine, recovery from a crash included.
const START_TIMEOUT: Duration = Duration::from_mins(2);
/// Interval of the questions whether it accepts connections, which no event reports.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// A running PostgreSQL. Ended when it is dropped.
pub struct PostgresqlServer {
    directory: TempDir,
    programs: PathBuf,
    settings: Vec<String>,
    port: u16,
    process: Option<Child>,
}

impl PostgresqlServer {
    /// Starts a server with an empty database, or prints the line by which the test counts as skipped.
    pub fn start_or_skip() -> Option<Self> {
        // What the kernel has survives the end of a process, so the tests need no fsync.
        Self::start_with(&["fsync=off"])
    }

    /// As [`Self::start_or_skip`], on a port with TLS and a password. Certificate and key are PEM texts.
    pub fn start_secured(certificate: &str, key: &str, password: &str) -> Option<(Self, u16)> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        drop(listener);
        let files = [
            ("server.pem", certificate),
            ("server.key", key),
            ("password", password),
        ];
        let settings = [
            "fsync=off",
            "listen_addresses=127.0.0.1",
            "ssl=on",
            "ssl_cert_file=../server.pem",
            "ssl_key_file=../server.key",
        ];
        Some((Self::make(&settings, &files, port)?, port))
    }

    /// As [`Self::start_or_skip`], with settings of the server.
    pub fn start_with(settings: &[&str]) -> Option<Self> {
        Self::make(settings, &[], DEFAULT_PORT)
    }

    /// Makes and starts a server with files of its own. The file `password` has the password of the only user.
    fn make(settings: &[&str], files: &[(&str, &str)], port: u16) -> Option<Self> {
        let Some(programs) = programs() else {
            let reason = "`make setup` installs Debian's postgresql where it is root and has a mirror";
            // Not `println`: the test harness hides the output of tests that pass.
            writeln!(std::io::stdout(), "\nSKIPPED: postgresql: {reason}").expect("standard output is open");
            return None;
        };
        let directory = tempfile::Builder::new()
            .prefix("bitzel-postgresql-")
            .tempdir_in("/tmp")
            .expect("a temporary directory");
        let mut server = Self {
            directory,
            programs,
            settings: settings.iter().map(|setting| (*setting).to_owned()).collect(),
            port,
            process: None,
        };
        let own = |path: &Path| {
            if geteuid().is_root() {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("root may do that");
            }
        };
        own(server.directory.path());
        for (name, text) in files {
            let path = server.directory.path().join(name);
            std::fs::write(&path, text).expect("a file");
            std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("its owner may do that");
            own(&path);
        }
        let mut initdb = server.command("initdb");
        if files.is_empty() {
            initdb.arg("--auth=trust");
        } else {
            initdb.args(["--auth=scram-sha-256", "--pwfile"]);
            initdb.arg(server.directory.path().join("password"));
        }
        let made = initdb
            .arg("--pgdata")
            .arg(server.data())
            .args(["--username=bitzel", "--no-sync", "--no-locale", "--encoding=UTF8"])
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.start();
        Some(server)
    }

    /// Value of `execution.journal.postgresql.url`.
    pub fn url(&self) -> String {
        format!(
            "host={} user=bitzel dbname=postgres",
            self.directory.path().display()
        )
    }

    /// Starts it again after [`Self::kill`].
    pub fn start(&mut self) {
        let started = Instant::now();
        loop {
            let mut command = self.command("postgres");
            command.arg("-D").arg(self.data());
            command.arg("-k").arg(self.directory.path());
            command.args(["-p", &self.port.to_string()]);
            command.args(["-c", "listen_addresses="]);
            for setting in &self.settings {
                command.args(["-c", setting]);
            }
            self.process = Some(command.spawn().expect("postgres starts"));
            while self.is_running() {
                if self.accepts_connections() {
                    return;
                }
                assert!(started.elapsed() < START_TIMEOUT, "PostgreSQL does not start");
                std::thread::sleep(PROBE_INTERVAL);
            }
            // Processes of the server that was killed are still ending.
            assert!(
                started.elapsed() < START_TIMEOUT,
                "PostgreSQL ends when it starts"
            );
            std::thread::sleep(PROBE_INTERVAL);
        }
    }

    /// Kills all of its processes with `SIGKILL`.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut process) = self.process.take() {
            process.wait().expect("PostgreSQL ends");
        }
    }

    /// Stops all of its processes, as if its machine hung. Connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets its processes go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let Some(process) = &self.process else {
            return;
        };
        let parent = Pid::from_child(process);
        // The parent first: a stopped or dead one starts no further children.
        kill_process(parent, signal).expect("PostgreSQL runs");
        for child in children(parent) {
            // One that has ended meanwhile needs no signal.
            let _ = kill_process(child, signal);
        }
    }

    fn is_running(&mut self) -> bool {
        let process = self.process.as_mut().expect("it was started");
        process.try_wait().expect("a status").is_none()
    }

    fn accepts_connections(&self) -> bool {
        let mut command = self.command("pg_isready");
        command.arg("--host").arg(self.directory.path());
        command.args(["--port", &self.port.to_string()]);
        command.status().is_ok_and(|status| status.success())
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env_clear()
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }
}

impl Drop for PostgresqlServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Directory of the newest programs that Debian has installed, or `BITZEL_TEST_POSTGRESQL`.
fn programs() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("BITZEL_TEST_POSTGRESQL") {
        return Some(directory.into());
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let installed = versions.filter_map(|entry| Some(entry.ok()?.path()));
    let newest = installed
        .filter(|path| path.join("bin/initdb").is_file())
        .max_by_key(|path| version(path))?;
    Some(newest.join("bin"))
}

/// Processes with this parent.
fn children(parent: Pid) -> Vec<Pid> {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let children = processes.filter_map(|entry| {
        let path = entry.ok()?.path();
        let id = path.file_name()?.to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(path.join("stat")).ok()?;
        // After the name, which may contain anything: the state, and the parent.
        let (_, rest) = stat.rsplit_once(')')?;
        let parent_id: i32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        (parent_id == parent.as_raw_nonzero().get()).then(|| Pid::from_raw(id))?
    });
    children.collect()
}
