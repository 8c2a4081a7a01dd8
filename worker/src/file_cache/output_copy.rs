//! Copies of what a command left, which become files of the cache.
//!
//! A command's own files never do: its processes have ended, but a transfer that one of them asked the kernel for, or a
//! process outside of the sandbox, may still write to them. So bytes are copied as they are hashed, into a file that
//! no command ever had open.

use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::FileCache;
use super::disk::{TemporaryFile, TemporaryPath};
use super::key::FileKey;
use super::state::CachedFile;
use crate::error::Error;
use crate::scratch::Scratch;

/// A part of a file this long, of nothing but zeros, becomes a hole: a command can make zeros without end that take no
/// room on disk.
const HOLE_BYTES: usize = 64 << 10;

/// A copy of an output. It goes away unless the cache adopts it.
#[derive(Debug)]
pub struct OutputCopy(TemporaryPath);

impl OutputCopy {
    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn publish(self, scratch: &Scratch, key: &FileKey) -> Result<CachedFile, Error> {
        self.0.publish(scratch, key)
    }
}

/// Writes a copy while the original is read for another purpose.
pub(crate) struct CopyWriter {
    /// Not there any more when writing failed: a copy is not worth more than giving it up.
    file: Option<TemporaryFile>,
    size: u64,
    written: u64,
}

impl FileCache {
    /// Starts a copy of a file of `size` bytes, if it can be had.
    pub(crate) fn copy_writer(&self, size: u64) -> Option<CopyWriter> {
        let file = TemporaryFile::create(&self.scratch);
        let file = file.inspect_err(|error| tracing::debug!(%error, "an output is not kept"));
        Some(CopyWriter {
            file: Some(file.ok()?),
            size,
            written: 0,
        })
    }

    /// Bytes of copies that are worth making of one Action's outputs: more would not stay.
    pub(crate) fn room_for_copies(&self) -> u64 {
        self.limit_bytes - self.limit_bytes / 10
    }
}

impl CopyWriter {
    /// Takes the next bytes.
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        if let Some(file) = &self.file
            && let Err(error) = write_parts(file, bytes, self.written)
        {
            tracing::debug!(%error, "an output is not kept");
            self.file = None;
        }
        self.written += bytes.len() as u64;
        if self.written > self.size {
            // It has grown since room was found for it.
            self.file = None;
        }
    }

    /// The copy, if all went well and it is whole.
    pub(crate) fn finish(self) -> Option<OutputCopy> {
        let file = self.file?;
        let is_whole = self.written == self.size;
        // What the end is a hole of is not written.
        (is_whole && file.file.set_len(self.size).is_ok()).then_some(OutputCopy(file.path))
    }
}

fn write_parts(file: &TemporaryFile, bytes: &[u8], mut position: u64) -> io::Result<()> {
    for part in bytes.chunks(HOLE_BYTES) {
        let is_hole = part.len() == HOLE_BYTES && part.iter().all(|byte| *byte == 0);
        if !is_hole {
            file.file.write_all_at(part, position)?;
        }
        position += part.len() as u64;
    }
    Ok(())
}
