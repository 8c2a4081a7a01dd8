//! `bitzel worker` as a child process.

use std::process::{Child, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::site::Site;

/// A running worker. Ended when it is dropped.
pub struct WorkerProcess(Child);

impl WorkerProcess {
    /// Starts a worker with a site's cache that takes Actions from `server`.
    pub fn start(site: &Site, server: &str) -> Self {
        Self::start_with(site, server, &[])
    }

    /// As [`start`](Self::start), with more arguments.
    pub fn start_with(site: &Site, server: &str, arguments: &[&str]) -> Self {
        let process = site
            .bitzel("worker")
            .arg(server)
            // Tests may run as root.
            .arg("--allow-root")
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("bitzel worker starts");
        Self(process)
    }

    /// Waits until it ends by itself.
    pub fn wait(mut self) -> ExitStatus {
        self.0.wait().expect("the worker ends")
    }

    /// Kills it with `SIGKILL`, as the kernel does when memory runs out.
    pub fn kill(mut self) {
        self.0.kill().expect("the worker can be killed");
        self.0.wait().expect("the worker ends");
    }
}

impl Drop for WorkerProcess {
    fn drop(&mut self) {
        // A worker that has ended has no process to signal.
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let _ = self.0.wait();
        }
    }
}
