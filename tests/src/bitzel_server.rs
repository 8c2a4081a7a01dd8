//! `bitzel serve` as a child process.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::site::Site;

/// A running `bitzel serve` with a site's cache as its store. Ended when it is dropped.
pub struct BitzelServer {
    process: Child,
    scheme: &'static str,
    address: SocketAddr,
    http: Option<SocketAddr>,
    admin: Option<SocketAddr>,
}

impl BitzelServer {
    /// Starts a server on a free port of this machine and waits until it prints its addresses.
    pub fn start(site: &Site) -> Self {
        Self::start_with(site, &[])
    }

    /// As [`start`](Self::start), with more arguments.
    pub fn start_with(site: &Site, arguments: &[&str]) -> Self {
        Self::run(site.bitzel("serve"), arguments)
    }

    /// As [`start_with`](Self::start_with), with log messages of all levels in the file `log`.
    pub fn start_with_log(site: &Site, arguments: &[&str], log: &Path) -> Self {
        let mut command = site.bitzel("serve");
        let log = File::create(log).expect("a file for the log");
        command.env("BITZEL_LOG", "trace").stderr(log);
        Self::run(command, arguments)
    }

    /// As [`start_with`](Self::start_with), on a machine that trusts only this authority (a PEM file).
    pub fn start_trusting(site: &Site, arguments: &[&str], authority: &Path) -> Self {
        let mut command = site.bitzel("serve");
        command.env("SSL_CERT_FILE", authority);
        Self::run(command, arguments)
    }

    /// Kills it with `SIGKILL`, as the kernel does when memory runs out.
    pub fn kill(&mut self) {
        self.process.kill().expect("the server can be killed");
        self.process.wait().expect("the server ends");
    }

    /// Stops its process, as if its machine hung. Connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets its process go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).expect("the server runs");
    }

    /// Kills it, and starts it again on the same address.
    pub fn kill_and_restart(&mut self, site: &Site, arguments: &[&str]) {
        self.kill();
        let again = Self::run_at(self.address, site.bitzel("serve"), arguments);
        // The old one is dropped, and its process has ended.
        *self = again;
    }

    fn run(command: Command, arguments: &[&str]) -> Self {
        Self::run_at(SocketAddr::from(([127, 0, 0, 1], 0)), command, arguments)
    }

    fn run_at(listen: SocketAddr, mut command: Command, arguments: &[&str]) -> Self {
        let mut process = command
            .args(["--listen", &listen.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bitzel serve starts");
        let lines = BufReader::new(process.stdout.take().expect("standard output is a pipe")).lines();
        let mut addresses = lines.map_while(Result::ok).filter_map(|line| address_in(&line));
        let mut next = || {
            addresses
                .next()
                .expect("bitzel serve ended without printing its addresses")
        };
        let address = next();
        let http = arguments.contains(&"--http-listen").then(&mut next);
        let admin = arguments.contains(&"--admin").then(next);
        let scheme = if arguments.contains(&"--access") {
            "grpcs"
        } else {
            "grpc"
        };
        Self {
            process,
            scheme,
            address,
            http,
            admin,
        }
    }

    /// The answer to `GET /metrics` of a server that was started with `--admin`.
    pub fn metrics(&self) -> String {
        let address = self.admin.expect("the server was started with --admin");
        let mut connection = TcpStream::connect(address).expect("the server listens");
        // HTTP/1.0: the server closes after the answer, and sends it in one piece.
        write!(connection, "GET /metrics HTTP/1.0\r\n\r\n").expect("a request");
        let mut response = String::new();
        connection.read_to_string(&mut response).expect("an answer");
        let (head, body) = response.split_once("\r\n\r\n").expect("an answer with a head");
        assert!(head.contains(" 200 "), "{head}");
        body.to_owned()
    }

    /// The admin port of a server that was started with `--admin`.
    pub fn admin_url(&self) -> String {
        let address = self.admin.expect("the server was started with --admin");
        format!("http://{address}")
    }

    /// The HTTP cache of a server that was started with `--http-listen`.
    pub fn http_url(&self) -> String {
        let address = self.http.expect("the server was started with --http-listen");
        let scheme = if self.scheme == "grpcs" { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    /// The address for clients and workers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The value of `--remote` for a client. A server with `--access` has TLS in all tests.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Bazel's flag for remote execution on this server.
    pub fn bazel_executor_flag(&self) -> String {
        format!("--remote_executor={}", self.url())
    }

    /// Bazel's flag for this server as a cache by gRPC.
    pub fn bazel_cache_flag(&self) -> String {
        format!("--remote_cache={}", self.url())
    }
}

impl Drop for BitzelServer {
    fn drop(&mut self) {
        // An error means that the server has ended by itself; the test fails by its own checks.
        if let Ok(None) = self.process.try_wait() {
            let _ = kill_process(Pid::from_child(&self.process), Signal::TERM);
            let _ = self.process.wait();
        }
    }
}

fn address_in(line: &str) -> Option<SocketAddr> {
    line.split(|letter: char| letter.is_whitespace() || letter == '/')
        .find_map(|word| word.parse().ok())
}
