//! Search for the entries of segments by their trailers, when the index does not name all of them.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bitzel_proto::Digest;

use super::extent::data_ranges;
use super::{SEGMENT_BLOCKS, path, segment_numbers, trailer};
use crate::error::Error;
use crate::media::bounded_directory::entries::Entries;
use crate::media::bounded_directory::files::make_directory;
use crate::media::bounded_directory::record::RECORD_BYTES;
use crate::media::bounded_directory::{BLOCK_BYTES, Entry, Place, now};

/// Largest number of blocks of an entry in a segment: that of a blob of 1 MiB.
const MAX_BLOCKS: u32 = 256;

/// Finds entries that `entries` does not have, the least recently used first. Each has the content of its digest.
pub(in super::super) fn find_unknown(
    root: &Path,
    entries: &Entries,
    is_intact: fn(&Entry, &[u8]) -> bool,
) -> Result<Vec<Entry>, Error> {
    let directory = root.join("segments");
    make_directory(&directory)?;
    let mut known: HashMap<u32, Vec<(u32, u32)>> = HashMap::new();
    for entry in entries.iter() {
        if let Place::Segment { number, block } = entry.place {
            known.entry(number).or_default().push((block, entry.blocks));
        }
    }
    let mut found = Vec::new();
    let mut digests = HashSet::new();
    for number in segment_numbers(&directory)? {
        let path = path(&directory, number);
        let failed = |error| Error::io(format_args!("cannot read {}", path.display()))(error);
        let file = File::open(&path).map_err(failed)?;
        let mut segment = Segment::open(number, file).map_err(failed)?;
        for (block, blocks) in known.remove(&number).unwrap_or_default() {
            segment.take(block, blocks);
        }
        // Backwards: a blob may contain what looks like a trailer, and its own trailer comes behind that.
        for last in (0..segment.taken.len()).rev() {
            let is_wanted = |digest: &Digest| entries.get(digest).is_none() && !digests.contains(digest);
            if let Some(entry) = segment.entry_before(last, is_wanted, is_intact).map_err(failed)? {
                digests.insert(entry.digest);
                found.push(entry);
            }
        }
    }
    found.sort_by_key(|entry| entry.last_use);
    Ok(found)
}

struct Segment {
    number: u32,
    file: File,
    /// For each block, true if it is not a hole.
    has_data: Vec<bool>,
    /// For each block, true if it belongs to an entry.
    taken: Vec<bool>,
}

impl Segment {
    fn open(number: u32, file: File) -> io::Result<Self> {
        let length = file
            .metadata()?
            .len()
            .min(u64::from(SEGMENT_BLOCKS) * BLOCK_BYTES);
        let block = |offset: u64| usize::try_from(offset.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX);
        let mut has_data = vec![false; block(length)];
        for (start, end) in data_ranges(&file, length)? {
            let end = block(end).min(has_data.len());
            has_data[block(start).min(end)..end].fill(true);
        }
        Ok(Self {
            number,
            file,
            taken: vec![false; has_data.len()],
            has_data,
        })
    }

    /// Marks blocks as belonging to an entry.
    fn take(&mut self, block: u32, blocks: u32) {
        let end = (block as usize + blocks as usize).min(self.taken.len());
        self.taken[(block as usize).min(end)..end].fill(true);
    }

    /// The intact and wanted entry whose last block is `last`, which it then takes.
    fn entry_before(
        &mut self,
        last: usize,
        is_wanted: impl Fn(&Digest) -> bool,
        is_intact: fn(&Entry, &[u8]) -> bool,
    ) -> io::Result<Option<Entry>> {
        let Ok(block) = u32::try_from(last) else {
            return Ok(None);
        };
        if !self.has_data[last] || self.taken[last] {
            return Ok(None);
        }
        let end = (u64::from(block) + 1) * BLOCK_BYTES;
        let mut tail = [0; RECORD_BYTES];
        if !self.read(&mut tail, end - RECORD_BYTES as u64)? {
            return Ok(None);
        }
        let Some(entry) =
            trailer::entry_of(self.number, block, &tail).filter(|entry| is_wanted(&entry.digest))
        else {
            return Ok(None);
        };
        let first = block + 1 - entry.blocks;
        // Blocks of zeros may be holes, but none may belong to another entry.
        if entry.blocks > MAX_BLOCKS || self.taken[first as usize..=last].contains(&true) {
            return Ok(None);
        }
        let mut content = vec![0; entry.blocks as usize * usize::try_from(BLOCK_BYTES).unwrap_or(0)];
        if !self.read(&mut content, u64::from(first) * BLOCK_BYTES)? || !is_intact(&entry, &content) {
            return Ok(None);
        }
        self.take(first, entry.blocks);
        let last_use = entry.last_use.min(now());
        Ok(Some(Entry { last_use, ..entry }))
    }

    /// Fills the buffer. False if the file ends before.
    fn read(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        match self.file.read_exact_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
            result => result.map(|()| true),
        }
    }
}
