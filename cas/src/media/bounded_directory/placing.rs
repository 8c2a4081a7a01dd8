//! Putting entries in: small ones into segments, many at once, large ones as files.

use std::io::{self, Write};
use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::Bytes;
use tempfile::NamedTempFile;

use super::entries::{Checksum, Encoding, Entry, Place};
use super::record::Change;
use super::segments::{Extent, Waste};
use super::{BLOCK, BoundedDirectory, Reservation, blocks_of, file_path, move_into_place, now, remove_file};
use crate::error::Error;

/// A small entry to be put in.
pub(crate) struct Parcel {
    pub(crate) digest: Digest,
    pub(crate) encoding: Encoding,
    pub(crate) content: Bytes,
}

/// A large entry, written to a file that is to be published.
pub(crate) struct FileContent {
    pub(crate) file: NamedTempFile,
    pub(crate) encoding: Encoding,
    /// Bytes of the file.
    pub(crate) length: u64,
    /// Of what the file stands for, which is something else if it is compressed.
    pub(crate) checksum: Option<Checksum>,
}

impl BoundedDirectory {
    /// Puts small entries in, with one write for all. Those that are there already stay, or make way if `replace`.
    pub(crate) fn put(self: &Arc<Self>, parcels: &[Parcel], replace: bool) -> Vec<Result<(), Error>> {
        if self.has_segments {
            match self.put_in_segment(parcels, replace) {
                Ok(()) => return parcels.iter().map(|_| Ok(())).collect(),
                Err(error) if parcels.len() == 1 => return vec![Err(error)],
                // Each by itself may fit, and has its own error.
                Err(_) => {}
            }
        }
        let put = |parcel: &Parcel| {
            if self.has_segments {
                self.put_in_segment(std::slice::from_ref(parcel), replace)
            } else {
                self.put_in_file(parcel, replace)
            }
        };
        parcels.iter().map(put).collect()
    }

    fn put_in_file(self: &Arc<Self>, parcel: &Parcel, replace: bool) -> Result<(), Error> {
        if !replace && self.touch(parcel.digest) {
            return Ok(());
        }
        let length = parcel.content.len() as u64;
        let reservation = self.reserve(parcel.digest, length)?;
        let mut file = self.new_file(parcel.digest)?;
        let written = file.write_all(&parcel.content);
        written.map_err(disk_error(parcel.digest, || {
            format!("cannot write {}", file.path().display())
        }))?;
        let content = FileContent {
            file,
            encoding: parcel.encoding,
            length,
            checksum: None,
        };
        self.publish(parcel.digest, content, reservation, replace)
    }

    fn put_in_segment(self: &Arc<Self>, parcels: &[Parcel], replace: bool) -> Result<(), Error> {
        let wanted: Vec<&Parcel> = {
            let state = self.state.lock();
            let is_wanted = |parcel: &&Parcel| replace || state.entries.get(&parcel.digest).is_none();
            parcels.iter().filter(is_wanted).collect()
        };
        let Some(first) = wanted.first().map(|parcel| parcel.digest) else {
            // Counts as used.
            self.missing(&parcels.iter().map(|parcel| parcel.digest).collect::<Vec<_>>());
            return Ok(());
        };
        let blocks = wanted
            .iter()
            .map(|parcel| blocks_of(parcel.content.len() as u64))
            .sum::<u32>();
        let reservation = self.reserve(first, u64::from(blocks) * BLOCK)?;
        let allocated = self.state.lock().segments.allocate(blocks);
        let extent = allocated.map_err(disk_error(first, || "cannot start a segment".to_owned()))?;
        let written = match &wanted[..] {
            [one] => extent.write(&one.content),
            many => extent.write(&side_by_side(many)),
        };
        if let Err(error) = written {
            self.abandon(&extent)?;
            return Err(disk_error(first, || "cannot write to a segment".to_owned())(
                error,
            ));
        }
        self.enter(&wanted, &extent, reservation, replace)
    }

    /// Gives an extent back that holds nothing.
    fn abandon(&self, extent: &Extent) -> Result<(), Error> {
        let wasted = self
            .state
            .lock()
            .segments
            .free(extent.segment, extent.block, extent.blocks);
        Waste::give_back(vec![wasted.map_err(Error::io("cannot open a segment"))?])
    }

    /// Notes in journal and index what was written to an extent.
    fn enter(
        self: &Arc<Self>,
        parcels: &[&Parcel],
        extent: &Extent,
        mut reservation: Reservation,
        replace: bool,
    ) -> Result<(), Error> {
        let used = now();
        let mut block = extent.block;
        let mut entered = Vec::with_capacity(parcels.len());
        let mut replaced = Vec::new();
        let mut superfluous = Vec::new();
        let mut state = self.state.lock();
        for parcel in parcels {
            let entry = Entry {
                digest: parcel.digest,
                place: Place::Segment {
                    number: extent.segment,
                    block,
                },
                encoding: parcel.encoding,
                blocks: blocks_of(parcel.content.len() as u64),
                used,
            };
            block += entry.blocks;
            // Somebody else may have been faster, or it is twice in the batch.
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
        let mut waste = Vec::new();
        let mut leaving = 0;
        let bytes = |entries: &[Entry]| {
            entries
                .iter()
                .map(|entry| u64::from(entry.blocks) * BLOCK)
                .sum::<u64>()
        };
        state.used += bytes(&entered) + bytes(&superfluous);
        for entry in replaced.iter().chain(&superfluous) {
            let removed = match entry.place {
                Place::File(_) => remove_file(&file_path(&self.root, entry)),
                Place::Segment { number, block } => {
                    let freed = state.segments.free(number, block, entry.blocks);
                    freed
                        .map(|freed| waste.push(freed))
                        .map_err(Error::io("cannot open a segment"))
                }
            };
            match removed {
                Ok(()) => leaving += u64::from(entry.blocks) * BLOCK,
                Err(error) => {
                    tracing::error!(digest = %entry.digest, %error, "cannot remove what was replaced");
                }
            }
        }
        state.leaving += leaving;
        let due = state.request_checkpoint(self.options.checkpoint_records);
        drop(state);
        if leaving > 0 {
            self.give_back(leaving, waste)?;
        }
        if due {
            self.checkpoint_in_background();
        }
        Ok(())
    }

    /// Makes a written file the one of `digest`. One that is there already stays, or makes way if `replace`.
    pub(crate) fn publish(
        self: &Arc<Self>,
        digest: Digest,
        content: FileContent,
        mut reservation: Reservation,
        replace: bool,
    ) -> Result<(), Error> {
        let entry = Entry {
            digest,
            place: Place::File(content.checksum),
            encoding: content.encoding,
            blocks: blocks_of(content.length),
            used: now(),
        };
        let mut state = self.state.lock();
        let present = state.entries.promote(&digest);
        if present.is_some() && !replace {
            drop(state);
            // The file is removed and the room given back outside of the lock.
            return Ok(());
        }
        state.append(&self.root, Change::Add, &[entry])?;
        move_into_place(content.file, &file_path(&self.root, &entry))
            .map_err(|error| no_space(digest, error))?;
        reservation.spend(&mut state);
        state.used += u64::from(entry.blocks) * BLOCK;
        if let Some(before) = state.entries.insert(entry) {
            state.used -= u64::from(before.blocks) * BLOCK;
        }
        let due = state.request_checkpoint(self.options.checkpoint_records);
        drop(state);
        if due {
            self.checkpoint_in_background();
        }
        Ok(())
    }
}

/// Each at the start of a block.
fn side_by_side(parcels: &[&Parcel]) -> Vec<u8> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let bytes: usize = parcels
        .iter()
        .map(|parcel| parcel.content.len() + ZEROS.len())
        .sum();
    let mut content = Vec::with_capacity(bytes);
    for parcel in parcels {
        content.extend_from_slice(&parcel.content);
        let gap = content.len().next_multiple_of(ZEROS.len()) - content.len();
        content.extend_from_slice(&ZEROS[..gap]);
    }
    content
}

/// For `map_err`: a full disk is a store without room, whoever filled it.
pub(crate) fn disk_error(
    digest: Digest,
    context: impl FnOnce() -> String,
) -> impl FnOnce(io::Error) -> Error {
    move |source| no_space(digest, Error::io(context())(source))
}

fn no_space(digest: Digest, error: Error) -> Error {
    match error {
        Error::Io { context, source } if is_full(&source) => {
            let reason = format!("{context}: {source}");
            Error::NoSpace { digest, reason }
        }
        error => error,
    }
}

/// Whether a disk has no room for something.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
