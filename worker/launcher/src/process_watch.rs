//! Watch of the memory and the processes of a command, from inside its process-id namespace.
//!
//! For machines where no cgroup does that. What it cannot see: memory in files without a name that no process has
//! mapped, and what a command with user namespaces keeps in file systems in memory of its own.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bitzel_launcher::{
    MAX_PROCESS_WATCH_INTERVAL, PROCESS_WATCH_INTERVAL, WatchedBound, WatchedBounds, watch_interval,
};
use rustix::fs::statvfs;
use rustix::param::page_size;

/// File systems in memory that the command writes to.
const MEMORY_FILE_SYSTEMS: [&str; 2] = ["/tmp", "/dev/shm"];

/// Watch of one command.
pub(crate) struct ProcessWatch {
    memory_bytes: Option<u64>,
    processes: Option<u64>,
    next: Instant,
}

/// Sums over the processes of a command.
#[derive(Debug, Default)]
struct Sums {
    tasks: u64,
    /// All pages that are in memory, those of files and shared ones too. More than what the command uses.
    resident_bytes: u64,
    /// Names in /proc.
    processes: Vec<String>,
}

impl ProcessWatch {
    /// Starts a watch. It looks only at what `bounds` has.
    pub(crate) fn start(bounds: &WatchedBounds) -> Self {
        Self {
            memory_bytes: bounds.memory_bytes,
            processes: bounds.processes,
            next: Instant::now() + PROCESS_WATCH_INTERVAL,
        }
    }

    /// Time until the next look; `None` if there is nothing to watch.
    pub(crate) fn pause(&self) -> Option<Duration> {
        let watches = self.memory_bytes.is_some() || self.processes.is_some();
        watches.then(|| self.next.saturating_duration_since(Instant::now()))
    }

    /// Looks at the processes if it is time to. Gives the bound that they exceed, and what they use.
    pub(crate) fn look(&mut self) -> io::Result<Option<(WatchedBound, u64)>> {
        let start = Instant::now();
        if self.pause() != Some(Duration::ZERO) {
            return Ok(None);
        }
        let sums = sum()?;
        let found = match (self.processes, self.memory_bytes) {
            (Some(bound), _) if sums.tasks > bound => Some((WatchedBound::Processes, sums.tasks)),
            (_, Some(bound)) => {
                let used = used_memory(&sums, bound);
                (used > bound).then_some((WatchedBound::Memory, used))
            }
            _ => None,
        };
        let end = Instant::now();
        self.next = end + watch_interval(end - start, PROCESS_WATCH_INTERVAL, MAX_PROCESS_WATCH_INTERVAL);
        Ok(found)
    }
}

/// Looks at what a command has left that failed: if it could not make another process, those that it has made are still
/// there. Gives their number if it is more than `bounds` allow.
pub(crate) fn left_processes(bounds: &WatchedBounds) -> io::Result<Option<(WatchedBound, u64)>> {
    let Some(bound) = bounds.processes else {
        return Ok(None);
    };
    let tasks = sum()?.tasks;
    Ok((tasks > bound).then_some((WatchedBound::Processes, tasks)))
}

/// Reads one line about each process of this namespace, without this one.
fn sum() -> io::Result<Sums> {
    let mut sums = Sums::default();
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc")? {
        let Ok(name) = entry?.file_name().into_string() else {
            continue;
        };
        if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        // It may have ended meanwhile.
        let Ok(status) = fs::read(Path::new("/proc").join(&name).join("stat")) else {
            continue;
        };
        if let Some((threads, pages)) = threads_and_pages(&status) {
            sums.tasks += threads;
            sums.resident_bytes = sums
                .resident_bytes
                .saturating_add(pages.saturating_mul(page_size() as u64));
            sums.processes.push(name);
        }
    }
    Ok(sums)
}

/// Number of threads and of resident pages in a line of `proc_pid_stat(5)`. The name of the program, which the command
/// chooses, is in parentheses.
fn threads_and_pages(line: &[u8]) -> Option<(u64, u64)> {
    let end = line.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(&line[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    // The state is field 3, the number of threads field 20, the resident pages field 24.
    let threads = fields.nth(17)?.parse().ok()?;
    let pages = fields.nth(3)?.parse().ok()?;
    Some((threads, pages))
}

/// Memory that a command uses. Exact only if it could be more than `bound`, because that takes the kernel longer.
fn used_memory(sums: &Sums, bound: u64) -> u64 {
    let in_files = MEMORY_FILE_SYSTEMS.iter().map(|path| memory_of_files(path)).sum();
    let estimate = sums.resident_bytes.saturating_add(in_files);
    if estimate <= bound {
        return estimate;
    }
    let (mut anonymous, mut shared) = (0_u64, 0_u64);
    for process in &sums.processes {
        let process = Path::new("/proc").join(process);
        let memory = fs::read_to_string(process.join("smaps_rollup"));
        let (own, with_others) = match memory {
            Ok(memory) => proportional_memory(&memory),
            // Not readable if the program hides its memory, as agents of keys do. It may have ended, too.
            Err(_) => {
                fs::read_to_string(process.join("status")).map_or((0, 0), |status| resident_memory(&status))
            }
        };
        anonymous = anonymous.saturating_add(own);
        shared = shared.saturating_add(with_others);
    }
    // Mapped files of the file systems in memory are in both.
    anonymous.saturating_add(shared.max(in_files))
}

/// Bytes of private memory and of memory in files, without those of other processes that share them, in a
/// `smaps_rollup` of proc(5).
fn proportional_memory(rollup: &str) -> (u64, u64) {
    let (mut anonymous, mut shared) = (0, 0);
    for line in rollup.lines() {
        match kibibytes(line) {
            Some(("Pss_Anon:" | "SwapPss:", kibibytes)) => anonymous += kibibytes << 10,
            Some(("Pss_Shmem:", kibibytes)) => shared += kibibytes << 10,
            _ => {}
        }
    }
    (anonymous, shared)
}

/// Bytes of private memory and of shared memory in a `status` of `proc_pid_status(5)`, which is readable for every process.
/// Memory that several processes share counts for each of them.
fn resident_memory(status: &str) -> (u64, u64) {
    let (mut anonymous, mut shared) = (0, 0);
    for line in status.lines() {
        match kibibytes(line) {
            Some(("RssAnon:" | "VmSwap:", kibibytes)) => anonymous += kibibytes << 10,
            Some(("RssShmem:", kibibytes)) => shared += kibibytes << 10,
            _ => {}
        }
    }
    (anonymous, shared)
}

/// Name and number of a line like `Name: 8 kB`.
fn kibibytes(line: &str) -> Option<(&str, u64)> {
    let mut words = line.split_ascii_whitespace();
    Some((words.next()?, words.next()?.parse().ok()?))
}

fn memory_of_files(path: &str) -> u64 {
    statvfs(path).map_or(0, |status| {
        status
            .f_blocks
            .saturating_sub(status.f_bfree)
            .saturating_mul(status.f_frsize)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_whose_program_has_any_name() {
        let line = b"7 (a) b 1 2) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 3 0 100 5000000 42 18446744073709551615 1";
        assert_eq!(threads_and_pages(line), Some((3, 42)));
        assert_eq!(threads_and_pages(b"7 (a"), None);
        let own = fs::read("/proc/self/stat").unwrap();
        let (threads, pages) = threads_and_pages(&own).unwrap();
        assert!(threads >= 1 && pages > 10, "{threads} {pages}");
    }

    #[test]
    fn reads_the_memory_of_this_process() {
        let (anonymous, _) = proportional_memory(&fs::read_to_string("/proc/self/smaps_rollup").unwrap());
        assert!(anonymous > 0);
        let (anonymous, _) = resident_memory(&fs::read_to_string("/proc/self/status").unwrap());
        assert!(anonymous > 0);
        assert_eq!(
            resident_memory(
                "Name:\tRssShmem: 7\nVmRSS:\t 9 kB\nRssAnon:\t 8 kB\nRssShmem:\t 4 kB\nVmSwap:\t 1 kB"
            ),
            (9 << 10, 4 << 10)
        );
        assert_eq!(
            proportional_memory("Pss_Anon:  8 kB\nPss_Shmem: 4 kB\nSwapPss: 1 kB\nRss: 9 kB"),
            (9 << 10, 4 << 10)
        );
    }
}
