//! Writes of large blobs into files, which are moved into place when they are complete.

use std::io::{self, Write};

use bitzel_proto::Digest;
use bytes::Bytes;
use tempfile::NamedTempFile;

use super::encoding::FrameWriter;
use super::writer::Target;
use crate::error::Error;
use crate::media::bounded_directory::{Checksum, Encoding, FinishedFile, Reservation, disk_error};

/// Space that is reserved for a large blob at first, of which 1 MiB has arrived. The reservation grows by a quarter
/// whenever it is used up: the client declares the size in a digest, and one that declares much and sends little must not
/// cause many evictions.
const FIRST_RESERVATION_BYTES: u64 = 2 << 20;

/// Format of the file.
enum Format {
    /// Not chosen before the first bytes arrive.
    Undecided,
    Raw,
    Frames(FrameWriter),
}

/// Large blob that is being written to a file. A drop at any time leaves nothing behind. All functions block.
pub(super) struct LargeBlobWriter {
    target: Target,
    digest: Digest,
    file: NamedTempFile,
    reservation: Reservation,
    reserved_bytes: u64,
    /// Bytes received so far.
    received_bytes: u64,
    format: Format,
}

impl LargeBlobWriter {
    /// Reserves space and creates the file. `None` if the blob is present already.
    pub(super) fn start(target: Target, digest: Digest) -> Result<Option<Self>, Error> {
        if target.directory.touch(digest) {
            return Ok(None);
        }
        let bytes = target.max_stored_bytes(digest.size_bytes());
        target.directory.check_capacity(digest, bytes)?;
        let first = bytes.min(FIRST_RESERVATION_BYTES);
        let reservation = target.directory.reserve(digest, first)?;
        let file = target.directory.new_file(digest)?;
        Ok(Some(Self {
            format: if target.compress {
                Format::Undecided
            } else {
                Format::Raw
            },
            target,
            digest,
            file,
            reservation,
            reserved_bytes: first,
            received_bytes: 0,
        }))
    }

    /// Writes chunks. Bytes beyond the size in the digest are not written: the check of the digest refuses the blob.
    pub(super) fn add(mut self, chunks: &[Bytes]) -> Result<Self, Error> {
        for chunk in chunks {
            self.received_bytes += chunk.len() as u64;
            if self.received_bytes > self.digest.size_bytes() {
                break;
            }
            self.reserve_received()?;
            let written = self.write(chunk);
            written.map_err(disk_error(
                self.digest,
                format_args!("cannot write {}", self.file.path().display()),
            ))?;
        }
        Ok(self)
    }

    /// Reserves space for all bytes received so far.
    fn reserve_received(&mut self) -> Result<(), Error> {
        let needed = self.target.max_stored_bytes(self.received_bytes);
        if needed > self.reserved_bytes {
            let whole = self.target.max_stored_bytes(self.digest.size_bytes());
            self.reserved_bytes = needed.saturating_add(needed / 4).min(whole);
            self.reservation.grow_to(self.digest, self.reserved_bytes)?;
        }
        Ok(())
    }

    fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        if matches!(self.format, Format::Undecided) && !chunk.is_empty() {
            let mut frames = FrameWriter::new()?;
            self.format = if frames.saves_space(chunk) {
                Format::Frames(frames)
            } else {
                Format::Raw
            };
        }
        match &mut self.format {
            Format::Frames(frames) => frames.write(chunk, self.file.as_file_mut()),
            Format::Raw | Format::Undecided => self.file.write_all(chunk),
        }
    }

    /// Publishes the blob. To be called when all of it was written and its digest was right.
    pub(super) fn finish(mut self, checksum: Checksum) -> Result<(), Error> {
        let digest = self.digest;
        let encoding = match self.format {
            Format::Frames(frames) => {
                let finished = frames.finish(self.file.as_file_mut());
                finished.map_err(disk_error(digest, "cannot finish a compressed blob"))?;
                Encoding::Zstd
            }
            Format::Raw | Format::Undecided => Encoding::Raw,
        };
        let metadata = self.file.as_file().metadata();
        let length = metadata
            .map_err(Error::io("cannot read the size of a finished file"))?
            .len();
        let content = FinishedFile {
            file: self.file,
            encoding,
            length,
            checksum: Some(checksum),
        };
        self.target
            .directory
            .insert_file(digest, content, self.reservation, false)
    }
}
