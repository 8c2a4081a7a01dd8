//! Meter of what a command uses.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bitzel_cas::blocking::run_blocking;
use bitzel_proto::worker::ResourceUsage;

use crate::cgroup::CgroupFiles;

/// Pause before the first look at the memory. It doubles after each look.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two looks.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Microseconds of a clock tick in `/proc`: the kernel shows 100 of them a second to all programs.
const MICROS_PER_TICK: u64 = 10_000;
/// Maximum number of processes that one look counts. A command chooses how many it has.
const MAX_PROCESSES: usize = 10_000;

/// Measurement of one command.
///
/// The memory is looked at while the command runs: peaks between two looks are missed, and a command that ends before the
/// first look has no figure.
#[derive(Debug)]
pub(super) struct UsageMeter {
    source: Source,
    cpu_micros_before: u64,
    peak_memory_bytes: u64,
    pause: Duration,
}

/// Source of the figures.
#[derive(Debug, Clone)]
enum Source {
    /// The control group of the launcher.
    Cgroup(Arc<CgroupFiles>),
    /// The processes below the launcher.
    Processes { launcher: u32 },
}

impl UsageMeter {
    /// Starts the measurement of the next command of a launcher.
    pub(super) fn start(cgroup: Option<Arc<CgroupFiles>>, launcher: Option<u32>) -> Option<Self> {
        let source = match (cgroup.filter(|files| files.has_memory()), launcher) {
            (Some(files), _) => Source::Cgroup(files),
            (None, Some(launcher)) => Source::Processes { launcher },
            (None, None) => return None,
        };
        Some(Self {
            cpu_micros_before: source.cpu_micros(),
            source,
            peak_memory_bytes: 0,
            pause: FIRST_PAUSE,
        })
    }

    /// Looks at the memory again and again, until it is dropped.
    pub(super) async fn watch(&mut self) -> std::convert::Infallible {
        loop {
            tokio::time::sleep(self.pause).await;
            self.look().await;
            self.pause = (self.pause * 2).min(MAX_PAUSE);
        }
    }

    async fn look(&mut self) {
        let source = self.source.clone();
        let bytes = run_blocking(move || source.memory_bytes()).await;
        self.peak_memory_bytes = self.peak_memory_bytes.max(bytes);
    }

    /// The use since the start, when the command has ended.
    pub(super) fn usage(&self) -> ResourceUsage {
        ResourceUsage {
            peak_memory_bytes: self.peak_memory_bytes,
            cpu_micros: self.source.cpu_micros().saturating_sub(self.cpu_micros_before),
            ..ResourceUsage::default()
        }
    }
}

impl Source {
    fn memory_bytes(&self) -> u64 {
        match self {
            Self::Cgroup(files) => files.memory_bytes(),
            Self::Processes { launcher } => below(*launcher).into_iter().map(own_memory_bytes).sum(),
        }
    }

    /// Processor time. That of processes which have ended is in the figures of the launcher, which waited for them.
    fn cpu_micros(&self) -> u64 {
        match self {
            Self::Cgroup(files) => files.cpu_micros(),
            Self::Processes { launcher } => cpu_ticks(*launcher).unwrap_or(0) * MICROS_PER_TICK,
        }
    }
}

/// All processes below another one.
fn below(process: u32) -> Vec<u32> {
    let mut children = HashMap::<u32, Vec<u32>>::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if let Some(number) = number
            && let Some(parent) = parent(number)
        {
            children.entry(parent).or_default().push(number);
        }
    }
    let mut found = vec![];
    let mut pending = vec![process];
    while let Some(next) = pending.pop() {
        for child in children.remove(&next).unwrap_or_default() {
            if found.len() < MAX_PROCESSES {
                found.push(child);
                pending.push(child);
            }
        }
    }
    found
}

/// Fields of `/proc/PID/stat` after the name, which may have any characters. The first one is the state.
fn stat_fields(process: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

fn parent(process: u32) -> Option<u32> {
    stat_fields(process)?.get(1)?.parse().ok()
}

/// Clock ticks of a process and of those that it waited for.
fn cpu_ticks(process: u32) -> Option<u64> {
    let fields = stat_fields(process)?;
    let ticks = fields.get(11..15)?.iter().map(|field| field.parse::<u64>().ok());
    ticks.sum()
}

/// Memory of a process without files. Shared memory counts in each process that has it.
fn own_memory_bytes(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    let wanted = lines.filter(|(name, _)| matches!(*name, "RssAnon" | "RssShmem"));
    let kibibytes = wanted.filter_map(|(_, value)| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.sum::<u64>() << 10
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    use super::*;

    /// 64 MiB of memory in a grandchild, and processor time in another one that has ended.
    const SCRIPT: &str = "python3 -c 'sum(range(20_000_000))'; \
                          python3 -c 'memory = b\"x\" * (64 << 20); print(\"ready\", flush=True); input()'";

    #[tokio::test]
    async fn counts_the_processes_below_a_launcher() {
        let mut shell = Command::new("sh")
            .args(["-c", &format!("{SCRIPT}; exit 0")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut meter = UsageMeter::start(None, Some(shell.id())).unwrap();
        let mut ready = String::new();
        BufReader::new(shell.stdout.take().unwrap())
            .read_line(&mut ready)
            .unwrap();
        assert_eq!(ready, "ready\n");
        meter.look().await;
        let usage = meter.usage();
        shell.stdin.take().unwrap().write_all(b"end\n").unwrap();
        assert!(shell.wait().unwrap().success());
        let mebibytes = usage.peak_memory_bytes >> 20;
        assert!((64..200).contains(&mebibytes), "{mebibytes} MiB");
        assert!(usage.cpu_micros >= 2 * MICROS_PER_TICK, "{usage:?}");
    }

    #[test]
    fn a_process_that_is_gone_uses_nothing() {
        assert_eq!((own_memory_bytes(u32::MAX), cpu_ticks(u32::MAX)), (0, None));
        assert_eq!(below(u32::MAX), [] as [u32; 0]);
    }
}
