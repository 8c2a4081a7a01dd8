//! Processes of bitzel that are killed, stopped and started again at the same address.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use bitzel_tests::{Site, poll_until};
use rustix::process::{Pid, Signal, kill_process};

/// Time that an admin port has to answer. One whose process is stopped does not.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Number of lines of a log that are shown after a failure.
const LAST_LINES: usize = 40;

/// A server or a worker, with a service manager's duty: it is started again when it ends.
pub(super) struct Program {
    pub(super) name: String,
    pub(super) site: Site,
    subcommand: &'static str,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    admin: SocketAddr,
    pub(super) log: PathBuf,
    process: Option<Child>,
    /// A fault has ended or stopped it; the end of the fault starts it.
    pub(super) is_down: bool,
    /// A fault has sent it SIGTERM, so it may end.
    is_terminated: bool,
}

impl Program {
    pub(super) fn new(
        name: &str,
        site: Site,
        subcommand: &'static str,
        arguments: Vec<String>,
        admin: SocketAddr,
        variables: &[(String, String)],
    ) -> Self {
        let log = match std::env::var_os("BITZEL_CHAOS_LOGS") {
            Some(directory) => PathBuf::from(directory).join(format!("{name}.log")),
            None => site.path("log"),
        };
        File::create(&log).expect("a file for the log");
        Self {
            name: name.to_owned(),
            site,
            subcommand,
            arguments,
            variables: variables.to_vec(),
            admin,
            log,
            process: None,
            is_down: false,
            is_terminated: false,
        }
    }

    /// Starts it, and does not wait until it is ready.
    pub(super) fn start(&mut self) {
        let log = || {
            let file = OpenOptions::new().append(true).open(&self.log);
            file.expect("the log is there")
        };
        let mut command = self.site.bitzel(self.subcommand);
        command
            .args(&self.arguments)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log());
        self.process = Some(command.spawn().expect("bitzel starts"));
        self.is_down = false;
        self.is_terminated = false;
    }

    /// Waits until its admin port answers.
    pub(super) fn wait_until_ready(&mut self) {
        poll_until(&format!("{} is ready", self.name), || {
            self.supervise();
            self.metrics().map(|_| ())
        });
    }

    /// Starts it again if it has ended by itself, and returns how it ended.
    pub(super) fn supervise(&mut self) -> Option<String> {
        if self.is_down {
            return None;
        }
        let status = self.process.as_mut()?.try_wait().expect("a status")?;
        let expected = self.is_terminated;
        self.start();
        (!expected).then(|| format!("{} ended with {status}", self.name))
    }

    /// Kills it. It stays down until it is started.
    pub(super) fn kill(&mut self) {
        self.is_down = true;
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it can be killed");
            process.wait().expect("it ends");
        }
    }

    /// Sends SIGTERM. The service manager starts it again when it has ended.
    pub(super) fn terminate(&mut self) {
        self.is_terminated = true;
        self.signal(Signal::TERM);
    }

    /// Ends it by SIGTERM, and waits for that.
    pub(super) fn end(&mut self) {
        self.is_down = true;
        self.signal(Signal::TERM);
        if let Some(mut process) = self.process.take() {
            process.wait().expect("it ends");
        }
    }

    pub(super) fn pause(&mut self) {
        self.is_down = true;
        self.signal(Signal::STOP);
    }

    pub(super) fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.is_down = false;
    }

    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            // It was not waited for, so its process id is its own.
            kill_process(Pid::from_child(process), signal).expect("the process is there");
        }
    }

    /// The answer to `GET /metrics`, if it answers.
    pub(super) fn metrics(&self) -> Option<String> {
        let mut connection = TcpStream::connect_timeout(&self.admin, ADMIN_TIMEOUT).ok()?;
        connection.set_read_timeout(Some(ADMIN_TIMEOUT)).ok()?;
        write!(connection, "GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut response = String::new();
        connection.read_to_string(&mut response).ok()?;
        let (head, body) = response.split_once("\r\n\r\n")?;
        head.contains(" 200 ").then(|| body.to_owned())
    }

    /// Sum of the samples of a metric.
    pub(super) fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.metrics()?;
        let samples = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            rest.rsplit_once(' ')?.1.parse::<f64>().ok()
        });
        Some(samples.sum())
    }

    /// Lines of its log that tell of a panic.
    pub(super) fn panics(&self) -> Vec<String> {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let panics = text.lines().filter(|line| line.contains("panicked at"));
        panics.map(|line| format!("{}: {line}", self.name)).collect()
    }

    /// The end of its log.
    pub(super) fn last_lines(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let start = lines.len().saturating_sub(LAST_LINES);
        format!("--- {}\n{}\n", self.name, lines[start..].join("\n"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            // Also one that is stopped.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
