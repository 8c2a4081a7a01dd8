//! Blocks of segments, and their deallocation.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::Error;
use crate::media::bounded_directory::BLOCK_BYTES;
use crate::media::bounded_directory::files::remove_file;

/// Largest number of parts that one system call writes: `UIO_MAXIOV` of Linux.
const MAX_PARTS_PER_WRITE: usize = 1024;

/// Consecutive blocks of a segment.
#[derive(Debug, Clone)]
pub(in super::super) struct Extent {
    pub(in super::super) segment: u32,
    pub(in super::super) block: u32,
    pub(in super::super) blocks: u32,
    pub(in super::super) file: Arc<File>,
}

/// Space of removed entries that the file system still has to deallocate, which is done outside of the lock.
pub(in super::super) enum FreedSpace {
    /// Blocks of a segment.
    Extent(Extent),
    /// File: a segment without entries, or a file in quarantine.
    File(PathBuf),
}

impl FreedSpace {
    /// Deallocates the space; adjacent blocks with one system call.
    pub(in super::super) fn deallocate(mut freed: Vec<Self>) -> Result<(), Error> {
        freed.sort_by_key(|space| match space {
            Self::Extent(extent) => (extent.segment, extent.block),
            Self::File(_) => (u32::MAX, 0),
        });
        let mut hole: Option<Extent> = None;
        for space in freed {
            match (space, &mut hole) {
                (Self::File(path), _) => remove_file(&path)?,
                (Self::Extent(next), Some(hole))
                    if next.segment == hole.segment && next.block == hole.block + hole.blocks =>
                {
                    hole.blocks += next.blocks;
                }
                (Self::Extent(next), hole) => {
                    if let Some(hole) = hole.replace(next) {
                        hole.punch_hole()?;
                    }
                }
            }
        }
        hole.map_or(Ok(()), |hole| hole.punch_hole())
    }
}

impl Extent {
    /// Writes the parts one after the other from the start of the extent.
    pub(in super::super) fn write(&self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let mut offset = u64::from(self.block) * BLOCK_BYTES;
        while !parts.is_empty() {
            let at_once = parts.len().min(MAX_PARTS_PER_WRITE);
            match rustix::io::pwritev(&self.file, &parts[..at_once], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    IoSlice::advance_slices(&mut parts, written);
                    offset += written as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn punch_hole(&self) -> Result<(), Error> {
        punch_hole(
            &self.file,
            u64::from(self.block) * BLOCK_BYTES,
            u64::from(self.blocks) * BLOCK_BYTES,
        )
        .map_err(Error::io("cannot deallocate blocks of a segment"))
    }
}

/// Deallocates a part of a file; it reads as zeros from then on.
pub(in super::super) fn punch_hole(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, offset, length)?)
}

/// Parts of a file that are not holes, in whole blocks.
pub(super) fn data_ranges(file: &File, length: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
        ranges.push((start, end.next_multiple_of(BLOCK_BYTES)));
        at = end;
    }
    Ok(ranges)
}
