//! Processes of this machine that are no children of the test.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Longer than any of these processes takes to end; only one that hangs reaches it.
const END_TIMEOUT_SECONDS: i64 = 300;

/// A running process, found by its command line.
pub struct ObservedProcess {
    pidfd: OwnedFd,
    command_line: String,
}

impl ObservedProcess {
    /// A process with `text` in its command line, whose arguments are separated by NUL bytes; `None` if there is none.
    pub fn find(text: &str) -> Option<Self> {
        let processes = std::fs::read_dir("/proc").expect("/proc");
        processes.filter_map(Result::ok).find_map(|entry| {
            let id = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
            // The descriptor comes first: the process id may be another process's after the file was read.
            let pidfd = pidfd_open(id, PidfdFlags::empty()).ok()?;
            let command_line = command_line(&entry.path());
            command_line
                .contains(text)
                .then_some(Self { pidfd, command_line })
        })
    }

    /// Ends the process.
    pub fn kill(&self) {
        pidfd_send_signal(&self.pidfd, Signal::KILL).expect("the process runs");
    }

    /// Waits for the end of the process.
    pub fn wait_for_end(&self) {
        let timeout = Timespec {
            tv_sec: END_TIMEOUT_SECONDS,
            tv_nsec: 0,
        };
        // A pidfd is readable once its process has ended.
        let mut events = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let ended = poll(&mut events, Some(&timeout)).expect("a pidfd can be polled");
        assert_eq!(ended, 1, "{:?} still runs", self.command_line);
    }
}

/// Empty for a process that has ended.
fn command_line(process: &Path) -> String {
    let bytes = std::fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
