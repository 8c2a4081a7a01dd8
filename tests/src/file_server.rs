//! HTTP server of a directory.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::listening_process::{ListeningProcess, free_address};

/// HTTP server of the files in a directory (Python's `http.server`). Killed when it is dropped.
pub struct FileServer {
    address: SocketAddr,
    _process: ListeningProcess,
}

impl FileServer {
    /// Starts the server on a free port of the loopback interface.
    pub fn start(directory: &Path) -> Self {
        let address = free_address();
        let mut command = Command::new("/usr/bin/python3");
        command
            .args(["-m", "http.server", "--bind", "127.0.0.1", "--directory"])
            .arg(directory)
            .arg(address.port().to_string());
        Self {
            address,
            _process: ListeningProcess::start(command, &[address]),
        }
    }

    /// URL of the directory, without a slash at its end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
