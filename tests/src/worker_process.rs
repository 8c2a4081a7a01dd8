//! `bitzel worker`, a process of its own.

use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::site::Site;

/// A running worker. Asked to end when it is dropped.
pub struct WorkerProcess(Child);

impl WorkerProcess {
    /// Starts a worker with a site's cache that takes Actions from `server`.
    pub fn start(site: &Site, server: &str) -> Self {
        let process = site
            .bitzel("worker")
            .arg(server)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("bitzel worker starts");
        Self(process)
    }

    /// Kills it, as the kernel does when memory runs out.
    pub fn kill(mut self) {
        self.0.kill().expect("the worker can be killed");
        self.0.wait().expect("the worker ends");
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // One that was waited for has no process any more.
        if let (Ok(None), Ok(id)) = (self.0.try_wait(), self.0.id().try_into()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGTERM);
            let _ = self.0.wait();
        }
    }
}
