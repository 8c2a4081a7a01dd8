//! Files that hold many small entries.
//!
//! Making a file costs a file system some hundred microseconds, whatever is in it; a few blocks more in a file that
//! is there cost two. So small entries lie one after the other in segments, each at the start of a block. An evicted
//! entry leaves a hole: its blocks go back to the file system at once (`FALLOC_FL_PUNCH_HOLE`), and their place in the
//! segment is never used again. So nothing has to be compacted, what the directory takes is known exactly, and a
//! reader that comes too late meets zeros, never somebody else's bytes.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom};

use super::entries::{Entries, Entry, Place};
use super::{BLOCK, make_directory, remove_file};
use crate::error::Error;

/// Blocks of a segment: large enough that there are few files, small enough that most are gone as a whole some day.
const SEGMENT_BLOCKS: u32 = 1 << 16;
/// Files that stay open.
const OPEN_FILES: usize = 256;

/// Blocks in a segment.
#[derive(Debug, Clone)]
pub(super) struct Extent {
    pub(super) segment: u32,
    pub(super) block: u32,
    pub(super) blocks: u32,
    pub(super) file: Arc<File>,
}

/// What has to be done to give blocks back. Done outside of the lock.
pub(super) enum Waste {
    Hole(Extent),
    Segment(PathBuf),
}

struct Segment {
    /// Blocks in use.
    live: u64,
    file: Option<Arc<File>>,
}

pub(super) struct Segments {
    directory: PathBuf,
    table: HashMap<u32, Segment>,
    /// The number of the next segment.
    next: u32,
    /// The segment that is being filled, and its next block.
    current: Option<(u32, u32)>,
    open: usize,
}

impl Segments {
    /// Segments with what `entries` say. Nothing is appended to them, so that blocks of writes that an earlier
    /// process did not finish cannot be taken for something else.
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
        let next = next.max(numbers(&directory)?.last().map_or(0, |last| last + 1));
        Ok(Self {
            directory,
            table,
            next,
            current: None,
            open: 0,
        })
    }

    /// Whether the file system can make holes. Without, every entry needs a file of its own.
    pub(super) fn are_supported(temporary: &Path) -> bool {
        let punched = tempfile::tempfile_in(temporary).and_then(|file| {
            // A full disk takes nothing, and can be asked all the same.
            let _ = file.write_all_at(&[1; 4096], 0);
            punch(&file, 0, BLOCK)
        });
        punched.is_ok()
    }

    /// Takes blocks in a row. They count as in use.
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

    /// The open file of a segment.
    pub(super) fn file(&mut self, number: u32) -> io::Result<Arc<File>> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let segment = self.table.get(&number).ok_or_else(gone)?;
        if let Some(file) = &segment.file {
            return Ok(Arc::clone(file));
        }
        if self.open >= OPEN_FILES {
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

    /// Blocks that nobody needs any more.
    pub(super) fn free(&mut self, number: u32, block: u32, blocks: u32) -> io::Result<Waste> {
        if let Some(segment) = self.table.get_mut(&number) {
            segment.live = segment.live.saturating_sub(u64::from(blocks));
            if segment.live == 0 {
                if self.current.is_some_and(|(current, _)| current == number) {
                    self.current = None;
                }
                self.open -= usize::from(segment.file.is_some());
                self.table.remove(&number);
                return Ok(Waste::Segment(path(&self.directory, number)));
            }
        }
        let file = self.file(number)?;
        Ok(Waste::Hole(Extent {
            segment: number,
            block,
            blocks,
            file,
        }))
    }
}

impl Waste {
    /// Gives the blocks back; neighbours at once.
    pub(super) fn give_back(mut wastes: Vec<Self>) -> Result<(), Error> {
        wastes.sort_by_key(|waste| match waste {
            Self::Hole(extent) => (extent.segment, extent.block),
            Self::Segment(_) => (u32::MAX, 0),
        });
        let mut hole: Option<Extent> = None;
        for waste in wastes {
            match (waste, &mut hole) {
                (Self::Segment(path), _) => remove_file(&path)?,
                (Self::Hole(next), Some(hole))
                    if next.segment == hole.segment && next.block == hole.block + hole.blocks =>
                {
                    hole.blocks += next.blocks;
                }
                (Self::Hole(next), hole) => {
                    if let Some(hole) = hole.replace(next) {
                        hole.punch()?;
                    }
                }
            }
        }
        hole.map_or(Ok(()), |hole| hole.punch())
    }
}

impl Extent {
    pub(super) fn write(&self, content: &[u8]) -> io::Result<()> {
        self.file.write_all_at(content, u64::from(self.block) * BLOCK)
    }

    fn punch(&self) -> Result<(), Error> {
        punch(
            &self.file,
            u64::from(self.block) * BLOCK,
            u64::from(self.blocks) * BLOCK,
        )
        .map_err(Error::io("cannot give blocks of a segment back"))
    }
}

fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(rustix::fs::fallocate(file, flags, offset, length)?)
}

fn path(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:010}"))
}

/// The segments that there are, ascending.
fn numbers(directory: &Path) -> Result<Vec<u32>, Error> {
    let failed = || format!("cannot list {}", directory.display());
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(Error::io(failed()))? {
        let name = entry.map_err(Error::io(failed()))?.file_name();
        numbers.extend::<Option<u32>>(name.to_str().and_then(|name| name.parse().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Brings segments and entries together at a start: entries whose blocks are not there go, and blocks that no entry
/// has are given back. With `thorough` every block is looked for, which only a power loss or a damaged index needs.
pub(super) fn reconcile(root: &Path, entries: &mut Entries, thorough: bool) -> Result<(), Error> {
    let directory = root.join("segments");
    make_directory(&directory)?;
    let mut live: HashMap<u32, u64> = HashMap::new();
    for entry in entries.iter() {
        if let Place::Segment { number, .. } = entry.place {
            *live.entry(number).or_default() += u64::from(entry.blocks);
        }
    }
    // What cannot be as the entries say.
    let mut suspects: HashMap<u32, (File, u64)> = HashMap::new();
    let numbers = numbers(&directory)?;
    for number in &numbers {
        let path = path(&directory, *number);
        let Some(live) = live.remove(number) else {
            remove_file(&path)?;
            continue;
        };
        let open = || Error::io(format!("cannot open {}", path.display()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(open())?;
        let metadata = file.metadata().map_err(open())?;
        if thorough || metadata.blocks() * 512 != live * BLOCK {
            suspects.insert(*number, (file, metadata.len()));
        }
    }
    // What is left has no file.
    let mut gone: Vec<Entry> = Vec::new();
    let mut extents: HashMap<u32, Vec<(u64, u64)>> = HashMap::new();
    let mut allocated: HashMap<u32, Vec<(u64, u64)>> = HashMap::new();
    for (number, (file, length)) in &suspects {
        allocated.insert(*number, data(file, *length)?);
    }
    if !live.is_empty() || !suspects.is_empty() {
        for entry in entries.iter() {
            let Place::Segment { number, block } = entry.place else {
                continue;
            };
            if live.contains_key(&number) {
                gone.push(entry);
                continue;
            }
            let Some(allocated) = allocated.get(&number) else {
                continue;
            };
            let start = u64::from(block) * BLOCK;
            let end = start + u64::from(entry.blocks) * BLOCK;
            let after = allocated.partition_point(|(from, _)| *from <= start);
            if after > 0 && allocated[after - 1].1 >= end {
                extents.entry(number).or_default().push((start, end));
            } else {
                gone.push(entry);
            }
        }
    }
    if !gone.is_empty() {
        tracing::warn!(
            blobs = gone.len(),
            "small blobs of the store were lost on the disk"
        );
    }
    for entry in gone {
        entries.remove(&entry.digest);
    }
    for (number, (file, length)) in suspects {
        let mut taken = extents.remove(&number).unwrap_or_default();
        taken.sort_unstable();
        taken.push((length.next_multiple_of(BLOCK), u64::MAX));
        let mut free = 0;
        for (start, end) in taken {
            if start > free {
                punch(&file, free, start - free)
                    .map_err(Error::io("cannot give blocks of a segment back"))?;
            }
            free = end;
        }
    }
    Ok(())
}

/// The parts of a file that are not holes, in whole blocks.
fn data(file: &File, length: u64) -> Result<Vec<(u64, u64)>, Error> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < length {
        let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(rustix::io::Errno::NXIO) => break,
            Err(error) => return Err(Error::io("cannot look for the holes of a segment")(error.into())),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(start))
            .map_err(io::Error::from)
            .map_err(Error::io("cannot look for the holes of a segment"))?;
        parts.push((start, end.next_multiple_of(BLOCK)));
        at = end;
    }
    Ok(parts)
}
