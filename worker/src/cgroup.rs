//! Control groups of version 2, see `Documentation/admin-guide/cgroup-v2.rst` of Linux.
//!
//! A worker to which the system has delegated its control group makes one below it for each launcher. The kernel then
//! enforces the bounds of memory and processes, with everything that a watch cannot see, and shares processors and disks
//! fairly among Actions. Launchers are reused, and their groups with them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::bounds::{Bound, BoundReached, Bounds};
use crate::error::Error;

mod delegation;
mod files;

pub(crate) use files::CgroupFiles;

/// Processes of the sandbox itself in a group: the launcher, the supervisor, and bubblewrap at the start.
const SANDBOX_PROCESSES: u64 = 8;
/// Files with the weight of a group for disks. The controller `io` has the first one if the kernel has the cost model
/// (`CONFIG_BLK_CGROUP_IOCOST`), the second one if a disk has the scheduler BFQ.
const DISK_WEIGHTS: [&str; 2] = ["io.weight", "io.bfq.weight"];
/// Start of the names of groups of launchers. The worker's process id and a number follow.
const PREFIX: &str = "bitzel-action-";

/// Controllers that a worker uses.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each controller is there or not, apart from the others"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Controllers {
    pub memory: bool,
    pub pids: bool,
    pub cpu: bool,
    pub io: bool,
}

/// The control group that was delegated to this worker.
#[derive(Debug)]
pub(crate) struct Cgroups {
    directory: PathBuf,
    controllers: Controllers,
    bounds: Bounds,
}

/// Number of the next group of this process.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

/// Longest wait for the end of the processes that were killed in a group.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The control group of a launcher. Removed when it is dropped, if its processes have ended.
#[derive(Debug)]
pub(crate) struct Cgroup {
    directory: PathBuf,
    /// Kept open: they are read for each command.
    memory_events: Option<File>,
    pids_events: Option<File>,
    files: Arc<CgroupFiles>,
}

/// Numbers of times that a group reached its limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct CgroupEvents {
    /// Processes of the group that were killed for want of memory: of the group, of a group above, or of the machine.
    pub killed: u64,
    /// Times that the group's own limit of memory left no way out. Limits of groups above do not count here.
    pub out_of_memory: u64,
    /// Processes and threads that were refused.
    pub refused: u64,
}

impl Cgroups {
    /// Takes possession of the delegated control group. The error is the reason why there is none. Blocks.
    pub(crate) fn open(bounds: &Bounds) -> Result<Arc<Self>, String> {
        let (directory, controllers) = delegation::take()?;
        let mut cgroups = Self {
            directory,
            controllers,
            bounds: bounds.clone(),
        };
        cgroups.remove_stale();
        // The kernel may still refuse something, for example a limit beyond that of a container.
        let cgroup = cgroups
            .create()
            .map_err(|error| format!("no control group can be made: {error}"))?;
        cgroups.controllers.io = cgroup.shares_disks();
        Ok(Arc::new(cgroups))
    }

    /// Directory below which the groups are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The controllers that enforce bounds.
    pub(crate) fn controllers(&self) -> Controllers {
        self.controllers
    }

    /// Makes a group for a launcher.
    pub(crate) fn create(&self) -> io::Result<Cgroup> {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let directory = self.directory.join(name);
        fs::create_dir(&directory)?;
        let mut cgroup = Cgroup {
            files: Arc::new(CgroupFiles::open(&directory)),
            directory,
            memory_events: None,
            pids_events: None,
        };
        cgroup.limit(self.controllers, &self.bounds)?;
        Ok(cgroup)
    }

    /// Removes groups of workers that were killed.
    fn remove_stale(&self) {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let process = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX)?.split_once('-'));
            if process.is_some_and(|(process, _)| !Path::new("/proc").join(process).exists()) {
                // One that has processes stays.
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

impl Cgroup {
    fn limit(&mut self, controllers: Controllers, bounds: &Bounds) -> io::Result<()> {
        let write = |name: &str, value: String| {
            fs::write(self.directory.join(name), value)
                .map_err(|error| io::Error::new(error.kind(), format!("write {name}: {error}")))
        };
        if controllers.memory {
            write("memory.max", bounds.memory_bytes.to_string())?;
            // A group where one process is missing is of no use: make would go on with half of its jobs.
            write("memory.oom.group", "1".into())?;
            // Not there on a machine without swap accounting.
            let _ = write("memory.swap.max", "0".into());
            self.memory_events = Some(File::open(self.directory.join("memory.events"))?);
        }
        if controllers.pids {
            let limit = bounds.processes.saturating_add(SANDBOX_PROCESSES);
            write("pids.max", limit.to_string())?;
            self.pids_events = Some(File::open(self.directory.join("pids.events"))?);
        }
        if controllers.cpu {
            write("cpu.weight", "100".into())?;
        }
        if controllers.io {
            for name in DISK_WEIGHTS
                .iter()
                .filter(|name| self.directory.join(name).exists())
            {
                write(name, "default 100".into())?;
            }
        }
        Ok(())
    }

    /// True if the kernel shares disks among groups by weight.
    fn shares_disks(&self) -> bool {
        let mut weights = DISK_WEIGHTS.iter();
        weights.any(|name| self.directory.join(name).exists())
    }

    /// Moves a process into the group, and with it all that it starts from now on.
    pub(crate) fn admit(&self, process: u32) -> io::Result<()> {
        fs::write(self.directory.join("cgroup.procs"), process.to_string())
    }

    /// Files that tell what its processes use.
    pub(crate) fn files(&self) -> Arc<CgroupFiles> {
        Arc::clone(&self.files)
    }

    /// How often it has reached its limits.
    pub(crate) fn events(&self) -> CgroupEvents {
        let memory_event = |name| self.memory_events.as_ref().map_or(0, |file| event(file, name));
        CgroupEvents {
            killed: memory_event("oom_kill"),
            out_of_memory: memory_event("oom"),
            refused: self.pids_events.as_ref().map_or(0, |file| event(file, "max")),
        }
    }
}

impl Cgroup {
    /// Kills the processes that are left, waits for their end and removes the group. After a kill for want of memory the
    /// launcher may be gone before the processes of its command. Blocks.
    pub(crate) fn end(self) {
        // Not there before Linux 5.14. The processes have been killed already, if there are any.
        let _ = fs::write(self.directory.join("cgroup.kill"), "1");
        if let Err(error) = self.wait_until_empty() {
            tracing::warn!(
                "{} stays until the next start of a worker: {error}",
                self.directory.display()
            );
        }
        // The drop removes it.
    }

    fn wait_until_empty(&self) -> io::Result<()> {
        let events = File::open(self.directory.join("cgroup.events"))?;
        let deadline = Instant::now() + END_TIMEOUT;
        // The kernel reports a change since the last read as an exceptional condition.
        while event(&events, "populated") != 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left)) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "its processes do not end",
                    ));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The number of an event in a file of lines like `max 3`.
fn event(file: &File, name: &str) -> u64 {
    let mut buffer = [0; 512];
    let length = file.read_at(&mut buffer, 0).unwrap_or(0);
    let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .find(|(found, _)| *found == name)
        .and_then(|(_, number)| number.parse().ok())
        .unwrap_or(0)
}

impl CgroupEvents {
    /// The reason why a command failed, if these events came between its start and its end.
    pub(crate) fn cause_of_failure(self, before: Self, bounds: &Bounds) -> Option<Error> {
        let reached = |bound, allowed| {
            let used = None;
            Some(Error::BoundReached(BoundReached { bound, used, allowed }))
        };
        if self.killed > before.killed {
            if self.out_of_memory > before.out_of_memory {
                return reached(Bound::Memory, bounds.memory_bytes);
            }
            return Some(Error::Exhausted(
                "the kernel killed a process of the Action, because this machine or a control group above the Action's \
                 has no memory left; run fewer Actions at a time, or lower `memory` of [execution.bounds]"
                    .to_owned(),
            ));
        }
        if self.refused > before.refused {
            return reached(Bound::Processes, bounds.processes);
        }
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // If processes are still ending, the next worker removes it.
        let _ = fs::remove_dir(&self.directory);
    }
}

#[cfg(test)]
mod tests;
