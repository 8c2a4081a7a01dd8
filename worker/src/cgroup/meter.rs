//! Meter of what the command in a group uses.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use bitzel_proto::worker::ResourceUsage;

/// Pause before the first look at the memory. It doubles after each look.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two looks.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Open files of a group that tell its use. They are kept open: they are read for each command.
#[derive(Debug)]
pub(crate) struct CgroupFiles {
    memory: Option<File>,
    processors: Option<File>,
}

/// Measurement of one command.
///
/// The memory is that of processes and of files in memory. The kernel's own peak (`memory.peak`) is no measure: it counts
/// the page cache too, which grows up to the limit whenever a command reads or writes many files. So the memory is looked at
/// while the command runs; peaks between two looks are missed, and a command that ends before the first one has no figure.
#[derive(Debug)]
pub(crate) struct Meter<'files> {
    files: &'files CgroupFiles,
    cpu_micros_before: u64,
    peak_memory_bytes: u64,
    pause: Duration,
}

impl CgroupFiles {
    pub(super) fn open(directory: &Path) -> Self {
        let open = |name| File::open(directory.join(name)).ok();
        Self {
            memory: open("memory.stat"),
            processors: open("cpu.stat"),
        }
    }

    /// Starts a measurement.
    pub(crate) fn meter(&self) -> Meter<'_> {
        Meter {
            files: self,
            cpu_micros_before: self.cpu_micros(),
            peak_memory_bytes: 0,
            pause: FIRST_PAUSE,
        }
    }

    fn cpu_micros(&self) -> u64 {
        let file = self.processors.as_ref();
        file.map_or(0, |file| sum(file, &["usage_usec"]))
    }
}

impl Meter<'_> {
    /// Looks at the memory again and again, until it is dropped.
    pub(crate) async fn watch(&mut self) {
        loop {
            tokio::time::sleep(self.pause).await;
            self.look();
            self.pause = (self.pause * 2).min(MAX_PAUSE);
        }
    }

    fn look(&mut self) {
        if let Some(file) = &self.files.memory {
            let bytes = sum(file, &["anon", "shmem"]);
            self.peak_memory_bytes = self.peak_memory_bytes.max(bytes);
        }
    }

    /// The use since the start of the measurement.
    pub(crate) fn usage(&self) -> ResourceUsage {
        ResourceUsage {
            peak_memory_bytes: self.peak_memory_bytes,
            cpu_micros: self.files.cpu_micros().saturating_sub(self.cpu_micros_before),
            ..ResourceUsage::default()
        }
    }
}

/// Sum of some numbers in a file of lines like `anon 4096`.
fn sum(file: &File, names: &[&str]) -> u64 {
    // The wanted lines are the first ones, and the whole of the file is shorter.
    let mut buffer = [0; 4096];
    let length = file.read_at(&mut buffer, 0).unwrap_or(0);
    let text = std::str::from_utf8(&buffer[..length]).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let wanted = lines.filter(|(name, _)| names.contains(name));
    wanted.filter_map(|(_, number)| number.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn keeps_the_peak_and_the_difference() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("memory.stat", "anon 1000\nfile 900000\nkernel 5\nshmem 500\n");
        write("cpu.stat", "usage_usec 700\nuser_usec 600\n");
        let files = CgroupFiles::open(directory.path());
        let mut meter = files.meter();
        assert_eq!(meter.usage(), ResourceUsage::default(), "nothing was looked at");
        for anon in [1000, 8000, 3000] {
            write("memory.stat", &format!("anon {anon}\nfile 900000\nshmem 500\n"));
            let watched = tokio::time::timeout(meter.pause, meter.watch()).await;
            assert!(watched.is_err());
        }
        write("cpu.stat", "usage_usec 1900\nuser_usec 600\n");
        let expected = ResourceUsage {
            peak_memory_bytes: 8500,
            cpu_micros: 1200,
            ..ResourceUsage::default()
        };
        assert_eq!(meter.usage(), expected);
    }
}
