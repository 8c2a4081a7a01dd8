//! Copies of outputs that become files of the cache.
//!
//! The output files themselves never do: the processes of the command have ended, but a transfer that one of them
//! requested from the kernel, or a process outside the sandbox, may still write to them. So the bytes are copied while
//! they are hashed, into a file that no command ever had open.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::FileCache;
use super::disk::{TemporaryFile, TemporaryPath};
use super::index::CachedFile;
use super::key::FileKey;
use crate::error::Error;
use crate::worker_directories::WorkerDirectories;

/// Size of the blocks that become holes if they are all zeros. Without holes a sparse output of any size, which takes a
/// command no disk space, would fill the cache.
const HOLE_BYTES: usize = 64 << 10;

/// A copy of an output. It is removed unless the cache adopts it.
#[derive(Debug)]
pub struct OutputCopy(TemporaryPath);

impl OutputCopy {
    /// The path of the copy.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn publish(self, directories: &WorkerDirectories, key: &FileKey) -> Result<CachedFile, Error> {
        self.0.publish(directories, key)
    }
}

/// Writer of a copy, fed with the bytes of the original while those are hashed.
pub(crate) struct CopyWriter {
    /// `None` after a failed write: the Action does without the copy.
    file: Option<TemporaryFile>,
    size: u64,
    written: u64,
}

impl FileCache {
    /// Starts a copy of a file of `size` bytes. `None` if the copy cannot be created.
    pub(crate) fn copy_writer(&self, size: u64) -> Option<CopyWriter> {
        let file = TemporaryFile::create(&self.directories);
        let file =
            file.inspect_err(|error| tracing::debug!(%error, "an output is not kept in the file cache"));
        Some(CopyWriter {
            file: Some(file.ok()?),
            size,
            written: 0,
        })
    }

    /// Limit of the copied bytes of one Action. The cache would evict more at once.
    pub(crate) fn max_copied_bytes(&self) -> u64 {
        self.limit_bytes - self.limit_bytes / 10
    }
}

impl CopyWriter {
    /// Appends bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if let Some(file) = &self.file
            && let Err(error) = write_with_holes(file, bytes, self.written)
        {
            tracing::debug!(%error, "an output is not kept in the file cache");
            self.file = None;
        }
        self.written += bytes.len() as u64;
        if self.written > self.size {
            // The original has grown since the start of the copy.
            self.file = None;
        }
    }

    /// The copy. `None` if a write failed or the copy is incomplete.
    pub(crate) fn finish(self) -> Option<OutputCopy> {
        let file = self.file?;
        let is_whole = self.written == self.size;
        // A hole at the end was not written.
        (is_whole && file.file.set_len(self.size).is_ok()).then_some(OutputCopy(file.path))
    }
}

fn write_with_holes(file: &TemporaryFile, bytes: &[u8], mut position: u64) -> io::Result<()> {
    for part in bytes.chunks(HOLE_BYTES) {
        let is_hole = part.len() == HOLE_BYTES && part.iter().all(|byte| *byte == 0);
        if !is_hole {
            file.file.write_all_at(part, position)?;
        }
        position += part.len() as u64;
    }
    Ok(())
}
