//! What the processes of a group use.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Open files of a group that tell its use. They are kept open: they are read for each command.
#[derive(Debug)]
pub(crate) struct CgroupFiles {
    memory: Option<File>,
    processors: Option<File>,
}

impl CgroupFiles {
    pub(super) fn open(directory: &Path) -> Self {
        let open = |name| File::open(directory.join(name)).ok();
        Self {
            memory: open("memory.stat"),
            processors: open("cpu.stat"),
        }
    }

    /// True if the group counts memory.
    pub(crate) fn has_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Memory of processes, and of files in memory, in bytes. The kernel's own figure (`memory.current`, `memory.peak`) is no
    /// measure: it counts the page cache too, which grows up to the limit whenever a command reads or writes many files.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let file = self.memory.as_ref();
        file.map_or(0, |file| sum(file, &["anon", "shmem"]))
    }

    /// Processor time since the group was made, in microseconds.
    pub(crate) fn cpu_micros(&self) -> u64 {
        let file = self.processors.as_ref();
        file.map_or(0, |file| sum(file, &["usage_usec"]))
    }
}

/// Sum of some numbers in a file of lines like `anon 4096`.
fn sum(file: &File, names: &[&str]) -> u64 {
    // The wanted lines are among the first ones.
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

    #[test]
    fn page_cache_is_no_memory_of_a_command() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
        write("memory.stat", "anon 1000\nfile 900000\nkernel 5\nshmem 500\n");
        write("cpu.stat", "usage_usec 700\nuser_usec 600\n");
        let files = CgroupFiles::open(directory.path());
        assert_eq!((files.memory_bytes(), files.cpu_micros()), (1500, 700));
        write("memory.stat", "anon 8000\n");
        assert_eq!(files.memory_bytes(), 8000);
    }
}
