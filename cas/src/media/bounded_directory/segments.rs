//! Segments: files that hold many small entries.
//!
//! Making a file costs a file system some hundred microseconds, whatever its size; a few more blocks in an existing file
//! cost two. So small entries lie one after the other in segments, each at the start of a block. An evicted entry
//! leaves a hole: its blocks are deallocated at once (`FALLOC_FL_PUNCH_HOLE`), and their place in the segment is never
//! used again. So there is no compaction, the size of the directory is known exactly, and a reader that comes too late
//! reads zeros, never the bytes of another entry.

mod extent;
pub(super) mod reconciliation;
pub(super) mod salvage;
mod trailer;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) use self::extent::{Extent, FreedSpace, punch_hole};
pub(super) use self::trailer::Padding;
use super::entries::Entries;
use super::files::{make_directory, numbers};
use super::{BLOCK_BYTES, Place};
use crate::error::Error;

/// Blocks of a segment: large enough that there are few files, small enough that most are removed as a whole in time.
const SEGMENT_BLOCKS: u32 = 1 << 16;
/// Segments whose files are kept open.
const MAX_OPEN_FILES: usize = 256;

struct Segment {
    /// Number of blocks in use.
    live: u64,
    file: Option<Arc<File>>,
}

/// All segments of a directory.
pub(super) struct Segments {
    directory: PathBuf,
    table: HashMap<u32, Segment>,
    /// Number of the next segment.
    next: u32,
    /// Number of the segment that is being filled, and its next block.
    current: Option<(u32, u32)>,
    /// Number of open files.
    open: usize,
}

impl Segments {
    /// Opens the segments of `entries`. Nothing is appended to them, so that blocks of writes that an earlier process
    /// did not finish cannot be mistaken for entries.
    pub(super) fn open(root: &Path, entries: &Entries) -> Result<Self, Error> {
        let directory = root.join("segments");
        make_directory(&directory)?;
        let mut table: HashMap<u32, Segment> = HashMap::new();
        for entry in entries.iter() {
            if let Place::Segment { number, .. } = entry.place {
                let segment = table.entry(number).or_insert(Segment { live: 0, file: None });
                segment.live += u64::from(entry.blocks);
            }
        }
        let next = table.keys().max().map_or(0, |last| last + 1);
        let next = next.max(segment_numbers(&directory)?.last().map_or(0, |last| last + 1));
        Ok(Self {
            directory,
            table,
            next,
            current: None,
            open: 0,
        })
    }

    /// True if the file system can make holes. Otherwise every entry needs a file of its own.
    pub(super) fn are_supported(temporary: &Path) -> bool {
        let punched = tempfile::tempfile_in(temporary).and_then(|file| {
            // A full disk refuses the write, but can make holes all the same.
            let _ = file.write_all_at(&[1; 4096], 0);
            punch_hole(&file, 0, BLOCK_BYTES)
        });
        punched.is_ok()
    }

    /// Allocates consecutive blocks. They count as in use.
    pub(super) fn allocate(&mut self, blocks: u32) -> io::Result<Extent> {
        let fits =
            |(_, block): &(u32, u32)| block.checked_add(blocks).is_some_and(|end| end <= SEGMENT_BLOCKS);
        let (number, block) = match self.current.filter(fits) {
            Some(current) => current,
            None => (self.start_segment()?, 0),
        };
        let file = self.file(number)?;
        self.current = Some((number, block + blocks));
        if let Some(segment) = self.table.get_mut(&number) {
            segment.live += u64::from(blocks);
        }
        Ok(Extent {
            segment: number,
            block,
            blocks,
            file,
        })
    }

    fn start_segment(&mut self) -> io::Result<u32> {
        let number = self.next;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path(&self.directory, number))?;
        self.next += 1;
        let segment = Segment {
            live: 0,
            file: Some(Arc::new(file)),
        };
        self.open += 1;
        self.table.insert(number, segment);
        self.current = Some((number, 0));
        Ok(number)
    }

    /// Open file of a segment.
    pub(super) fn file(&mut self, number: u32) -> io::Result<Arc<File>> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let segment = self.table.get(&number).ok_or_else(gone)?;
        if let Some(file) = &segment.file {
            return Ok(Arc::clone(file));
        }
        if self.open >= MAX_OPEN_FILES {
            self.table.values_mut().for_each(|segment| segment.file = None);
            self.open = 0;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path(&self.directory, number))?;
        let file = Arc::new(file);
        if let Some(segment) = self.table.get_mut(&number) {
            segment.file = Some(Arc::clone(&file));
            self.open += 1;
        }
        Ok(file)
    }

    /// Marks blocks as free. The caller has to deallocate the returned space.
    pub(super) fn free(&mut self, number: u32, block: u32, blocks: u32) -> io::Result<FreedSpace> {
        if let Some(segment) = self.table.get_mut(&number) {
            segment.live = segment.live.saturating_sub(u64::from(blocks));
            if segment.live == 0 {
                if self.current.is_some_and(|(current, _)| current == number) {
                    self.current = None;
                }
                self.open -= usize::from(segment.file.is_some());
                self.table.remove(&number);
                return Ok(FreedSpace::File(path(&self.directory, number)));
            }
        }
        let file = self.file(number)?;
        Ok(FreedSpace::Extent(Extent {
            segment: number,
            block,
            blocks,
            file,
        }))
    }
}

fn path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}"))
}

/// Numbers of the segments in a directory, ascending.
fn segment_numbers(directory: &Path) -> Result<Vec<u32>, Error> {
    let numbers = numbers(directory, "")?.into_iter();
    Ok(numbers.filter_map(|number| u32::try_from(number).ok()).collect())
}
