//! Servers of other projects, as child processes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::polling::poll_until;

/// A child process that accepts TCP connections. Killed when it is dropped: its data is of no use afterwards.
pub struct ListeningProcess(Child);

impl ListeningProcess {
    /// Starts a program and waits until it accepts connections at all `addresses`.
    pub fn start(mut command: Command, addresses: &[SocketAddr]) -> Self {
        let program = command.get_program().display().to_string();
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} does not start: {error}"));
        let mut started = Self(process);
        for address in addresses {
            poll_until(&format!("{program} listens at {address}"), || {
                let status = started.0.try_wait().expect("a status");
                assert_eq!(status, None, "{program} ended before it listened");
                TcpStream::connect(address).ok()
            });
        }
        started
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for ListeningProcess {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A loopback address without a listener, for programs that cannot choose a free port themselves.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address")
}
