//! Insertion of entries: small ones into segments, many with one write; large ones as files.

use std::io::{IoSlice, Write};
use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::Bytes;
use tempfile::NamedTempFile;

use super::disk_full::{disk_error, no_space_if_full};
use super::files::{file_path, move_into_place, remove_file};
use super::record::Change;
use super::segments::{Extent, FreedSpace, Padding};
use super::{BLOCK_BYTES, BoundedDirectory, Checksum, Encoding, Entry, Place, Reservation, blocks_of, now};
use crate::error::Error;

/// Small entry to be inserted.
pub(crate) struct SmallEntry {
    pub(crate) digest: Digest,
    pub(crate) encoding: Encoding,
    pub(crate) content: Bytes,
}

/// Large entry to be inserted, which is in a file already.
pub(crate) struct FinishedFile {
    pub(crate) file: NamedTempFile,
    pub(crate) encoding: Encoding,
    /// Size of the file.
    pub(crate) length: u64,
    /// Checksum of the uncompressed content.
    pub(crate) checksum: Option<Checksum>,
}

impl BoundedDirectory {
    /// Inserts small entries with one write for all. Entries that are present already stay, or are replaced if `replace`.
    pub(crate) fn insert_small(
        self: &Arc<Self>,
        small_entries: &[SmallEntry],
        replace: bool,
    ) -> Vec<Result<(), Error>> {
        if self.has_segments {
            match self.insert_into_segment(small_entries, replace) {
                Ok(()) => return small_entries.iter().map(|_| Ok(())).collect(),
                Err(error) if small_entries.len() == 1 => return vec![Err(error)],
                // Each of them may fit by itself, and gets its own error.
                Err(_) => {}
            }
        }
        let insert = |small_entry: &SmallEntry| {
            if self.has_segments {
                self.insert_into_segment(std::slice::from_ref(small_entry), replace)
            } else {
                self.insert_as_file(small_entry, replace)
            }
        };
        small_entries.iter().map(insert).collect()
    }

    fn insert_as_file(self: &Arc<Self>, small_entry: &SmallEntry, replace: bool) -> Result<(), Error> {
        if !replace && self.touch(small_entry.digest) {
            return Ok(());
        }
        let length = small_entry.content.len() as u64;
        let reservation = self.reserve(small_entry.digest, length)?;
        let mut file = self.new_file(small_entry.digest)?;
        let written = file.write_all(&small_entry.content);
        written.map_err(disk_error(
            small_entry.digest,
            format_args!("cannot write {}", file.path().display()),
        ))?;
        let content = FinishedFile {
            file,
            encoding: small_entry.encoding,
            length,
            checksum: None,
        };
        self.insert_file(small_entry.digest, content, reservation, replace)
    }

    fn insert_into_segment(
        self: &Arc<Self>,
        small_entries: &[SmallEntry],
        replace: bool,
    ) -> Result<(), Error> {
        let wanted: Vec<&SmallEntry> = {
            let state = self.state.lock();
            let is_wanted =
                |small_entry: &&SmallEntry| replace || state.entries.get(&small_entry.digest).is_none();
            small_entries.iter().filter(is_wanted).collect()
        };
        let Some(first) = wanted.first().map(|small_entry| small_entry.digest) else {
            // They count as used now.
            self.missing(
                &small_entries
                    .iter()
                    .map(|small_entry| small_entry.digest)
                    .collect::<Vec<_>>(),
            );
            return Ok(());
        };
        let blocks = wanted
            .iter()
            .map(|small_entry| blocks_of(small_entry.content.len() as u64))
            .sum::<u32>();
        let reservation = self.reserve(first, u64::from(blocks) * BLOCK_BYTES)?;
        let allocated = self.state.lock().segments.allocate(blocks);
        let extent = allocated.map_err(disk_error(first, "cannot start a segment"))?;
        let entries = entries_in(&extent, &wanted);
        let paddings: Vec<Padding> = wanted
            .iter()
            .zip(&entries)
            .map(|(small_entry, entry)| Padding::new(entry, small_entry.content.len()))
            .collect();
        let mut parts: Vec<IoSlice<'_>> = wanted
            .iter()
            .zip(&paddings)
            .flat_map(|(small_entry, padding)| {
                std::iter::once(IoSlice::new(&small_entry.content)).chain(padding.parts())
            })
            .collect();
        if let Err(error) = extent.write(&mut parts) {
            self.abandon(&extent)?;
            return Err(disk_error(first, "cannot write to a segment")(error));
        }
        self.add_to_index(&entries, &extent, reservation, replace)
    }

    /// Frees an extent without entries.
    fn abandon(&self, extent: &Extent) -> Result<(), Error> {
        let freed = self
            .state
            .lock()
            .segments
            .free(extent.segment, extent.block, extent.blocks);
        FreedSpace::deallocate(vec![freed.map_err(Error::io("cannot open a segment"))?])
    }

    /// Adds the entries in an extent to the index and its journal.
    fn add_to_index(
        self: &Arc<Self>,
        entries: &[Entry],
        extent: &Extent,
        mut reservation: Reservation,
        replace: bool,
    ) -> Result<(), Error> {
        let mut entered = Vec::with_capacity(entries.len());
        let mut replaced = Vec::new();
        let mut superfluous = Vec::new();
        let mut state = self.state.lock();
        for entry in entries.iter().copied() {
            // Another writer may have been faster, or the digest is in the batch twice.
            if !replace && state.entries.promote(&entry.digest).is_some() {
                superfluous.push(entry);
            } else {
                replaced.extend(state.entries.insert(entry));
                entered.push(entry);
            }
        }
        let files = || replaced.iter().filter(|entry| entry.place.is_file());
        let mut appended = state.append(&self.root, Change::Remove, files());
        if appended.is_ok() {
            appended = state.append(&self.root, Change::Add, &entered);
        }
        if let Err(error) = appended {
            for entry in &entered {
                state.entries.remove(&entry.digest);
            }
            for entry in replaced {
                state.entries.insert(entry);
            }
            drop(state);
            self.abandon(extent)?;
            return Err(error);
        }
        reservation.spend(&mut state);
        let mut freed_space = Vec::new();
        let mut freed_bytes = 0;
        let bytes = |entries: &[Entry]| {
            entries
                .iter()
                .map(|entry| u64::from(entry.blocks) * BLOCK_BYTES)
                .sum::<u64>()
        };
        state.used_bytes += bytes(&entered) + bytes(&superfluous);
        for entry in replaced.iter().chain(&superfluous) {
            let removed = match entry.place {
                Place::File(_) => remove_file(&file_path(&self.root, entry)),
                Place::Segment { number, block } => {
                    let freed = state.segments.free(number, block, entry.blocks);
                    freed
                        .map(|freed| freed_space.push(freed))
                        .map_err(Error::io("cannot open a segment"))
                }
            };
            match removed {
                Ok(()) => freed_bytes += u64::from(entry.blocks) * BLOCK_BYTES,
                Err(error) => {
                    tracing::error!(digest = %entry.digest, %error, "cannot remove a replaced blob");
                }
            }
        }
        state.deallocating_bytes += freed_bytes;
        let due = state.request_checkpoint(self.options.checkpoint_records);
        drop(state);
        if freed_bytes > 0 {
            self.deallocate(freed_bytes, freed_space)?;
        }
        if due {
            self.checkpoint_in_background();
        }
        Ok(())
    }

    /// Moves a finished file to the place of `digest`. An entry that is present already stays, or is replaced if
    /// `replace`.
    pub(crate) fn insert_file(
        self: &Arc<Self>,
        digest: Digest,
        content: FinishedFile,
        mut reservation: Reservation,
        replace: bool,
    ) -> Result<(), Error> {
        let entry = Entry {
            digest,
            place: Place::File(content.checksum),
            encoding: content.encoding,
            blocks: blocks_of(content.length),
            last_use: now(),
        };
        let mut state = self.state.lock();
        let present = state.entries.promote(&digest);
        if present.is_some() && !replace {
            drop(state);
            // The drops of file and reservation, outside of the lock, remove the file and return the space.
            return Ok(());
        }
        state.append(&self.root, Change::Add, &[entry])?;
        move_into_place(content.file, &file_path(&self.root, &entry))
            .map_err(|error| no_space_if_full(digest, error))?;
        reservation.spend(&mut state);
        state.used_bytes += u64::from(entry.blocks) * BLOCK_BYTES;
        if let Some(before) = state.entries.insert(entry) {
            state.used_bytes -= u64::from(before.blocks) * BLOCK_BYTES;
        }
        let due = state.request_checkpoint(self.options.checkpoint_records);
        drop(state);
        if due {
            self.checkpoint_in_background();
        }
        Ok(())
    }
}

/// Entries of small contents that lie one after the other in an extent.
fn entries_in(extent: &Extent, small_entries: &[&SmallEntry]) -> Vec<Entry> {
    let last_use = now();
    let mut block = extent.block;
    let entry = |small_entry: &&SmallEntry| {
        let entry = Entry {
            digest: small_entry.digest,
            place: Place::Segment {
                number: extent.segment,
                block,
            },
            encoding: small_entry.encoding,
            blocks: blocks_of(small_entry.content.len() as u64),
            last_use,
        };
        block += entry.blocks;
        entry
    };
    small_entries.iter().map(entry).collect()
}
