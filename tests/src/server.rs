//! `bitzel serve`, for builds by other clients.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::site::Site;

/// A running server with a site's cache as its store. Stopped when it is dropped.
pub struct Server {
    process: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts a server on a free port of this machine and waits until it says where it listens.
    pub fn start(site: &Site) -> Self {
        let mut process = site
            .bitzel("serve")
            .args(["--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bitzel serve starts");
        let lines = BufReader::new(process.stdout.take().expect("standard output is a pipe")).lines();
        let address = lines.map_while(Result::ok).find_map(|line| address_in(&line));
        let address = address.expect("bitzel serve ended without saying where it listens");
        Self { process, address }
    }

    /// What a client gives as `--remote`.
    pub fn url(&self) -> String {
        format!("grpc://{}", self.address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let id = Pid::from_raw(self.process.id().try_into().expect("a process id"));
        // A server that has died already cannot be signalled; the test fails by its own checks.
        let _ = kill(id, Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

fn address_in(line: &str) -> Option<SocketAddr> {
    line.split(|letter: char| letter.is_whitespace() || letter == '/')
        .find_map(|word| word.parse().ok())
}
