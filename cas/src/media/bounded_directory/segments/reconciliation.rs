//! Comparison of the segments on disk with the index, when a directory is opened.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::extent::{data_ranges, punch_hole};
use super::{path, segment_numbers};
use crate::error::Error;
use crate::media::bounded_directory::entries::Entries;
use crate::media::bounded_directory::files::{make_directory, remove_file};
use crate::media::bounded_directory::{BLOCK_BYTES, Encoding, Entry, Place};

/// Makes segments and entries agree: removes entries whose blocks are missing, and deallocates blocks without an entry.
/// With `thorough` every block is examined, which only a power loss or a damaged index makes necessary.
///
/// An evicted entry is a hole as a whole. A hole in a part of an entry is a block of zeros that a copy of the store left
/// out, as `cp` and `rsync --sparse` do: the entry reads as before.
///
/// Returns the number of removed entries.
pub(in super::super) fn reconcile(root: &Path, entries: &mut Entries, thorough: bool) -> Result<u64, Error> {
    let directory = root.join("segments");
    make_directory(&directory)?;
    let mut live: HashMap<u32, u64> = HashMap::new();
    for entry in entries.iter() {
        if let Place::Segment { number, .. } = entry.place {
            *live.entry(number).or_default() += u64::from(entry.blocks);
        }
    }
    // Segments whose number of blocks differs from that of their entries.
    let mut suspects: HashMap<u32, (File, u64)> = HashMap::new();
    for number in segment_numbers(&directory)? {
        let path = path(&directory, number);
        let Some(live) = live.remove(&number) else {
            remove_file(&path)?;
            continue;
        };
        let failed = |error| Error::io(format_args!("cannot open {}", path.display()))(error);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if thorough || metadata.blocks() * 512 != live * BLOCK_BYTES {
            suspects.insert(number, (file, metadata.len()));
        }
    }
    // The segments left in `live` have no file.
    let mut gone: Vec<Entry> = Vec::new();
    let mut extents: HashMap<u32, Vec<(u64, u64)>> = HashMap::new();
    let mut allocated: HashMap<u32, Vec<(u64, u64)>> = HashMap::new();
    for (number, (file, length)) in &suspects {
        let ranges = data_ranges(file, *length).map_err(Error::io("cannot list the holes of a segment"))?;
        allocated.insert(*number, ranges);
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
            let start = u64::from(block) * BLOCK_BYTES;
            let end = start + u64::from(entry.blocks) * BLOCK_BYTES;
            let after = allocated.partition_point(|(from, _)| *from < end);
            let has_data = after > 0 && allocated[after - 1].1 > start;
            if has_data || is_zeros(&entry) {
                extents.entry(number).or_default().push((start, end));
            } else {
                gone.push(entry);
            }
        }
    }
    let removed = gone.len() as u64;
    for entry in gone {
        entries.remove(&entry.digest);
    }
    for (number, (file, length)) in suspects {
        let mut taken = extents.remove(&number).unwrap_or_default();
        taken.sort_unstable();
        taken.push((length.next_multiple_of(BLOCK_BYTES), u64::MAX));
        let mut free = 0;
        for (start, end) in taken {
            if start > free {
                punch_hole(&file, free, start - free)
                    .map_err(Error::io("cannot deallocate blocks of a segment"))?;
            }
            free = end;
        }
    }
    Ok(removed)
}

/// True if the content of an entry is zeros, which a hole stands for.
fn is_zeros(entry: &Entry) -> bool {
    let digest = entry.digest;
    let stored_bytes = u64::from(entry.blocks) * BLOCK_BYTES;
    let Ok(size) = usize::try_from(digest.size_bytes().min(stored_bytes)) else {
        return false;
    };
    entry.encoding == Encoding::Raw && digest.function().digest(&vec![0; size]) == digest
}
