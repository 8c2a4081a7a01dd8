//! Reads of whole large blobs, checked on the way.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use tokio::task::JoinHandle;

use super::encoding::FrameReader;
use super::integrity::ReadCheck;
use super::reader::{quarantined, read_error};
use crate::blob_store::BlobStream;
use crate::error::Error;
use crate::file_stream::read_up_to;
use crate::media::bounded_directory::{BoundedDirectory, Encoding, Entry};

/// Bytes that one step of a stream reads from an uncompressed file.
const CHUNK_BYTES: u64 = 1 << 20;

/// File of a large blob.
enum BlobFile {
    Raw(File),
    Frames(FrameReader),
}

impl BlobFile {
    /// `None` if the file does not have the format of the blob.
    fn open(file: File, entry: &Entry) -> io::Result<Option<Self>> {
        match entry.encoding {
            Encoding::Raw => Ok(Some(Self::Raw(file))),
            Encoding::Zstd => Ok(FrameReader::open(file, entry.digest)?.map(Self::Frames)),
        }
    }

    /// Reads the next bytes, at most `size` of an uncompressed file.
    fn next(&mut self, size: u64) -> io::Result<Option<Bytes>> {
        match self {
            Self::Raw(file) => read_up_to(file, size).map(Some),
            Self::Frames(frames) => frames.next(),
        }
    }

    fn is_at_end(&mut self) -> io::Result<bool> {
        match self {
            Self::Raw(file) => Ok(file.read(&mut [0])? == 0),
            Self::Frames(frames) => Ok(frames.is_at_end()),
        }
    }
}

/// Large blob that is being read and checked.
pub(super) struct LargeBlobReader {
    directory: Arc<BoundedDirectory>,
    entry: Entry,
    file: BlobFile,
    check: ReadCheck,
    /// Bytes that were read.
    done: u64,
}

/// Next chunk, and the reader of the rest unless it was the last one.
pub(super) type Step = Result<Option<(Bytes, Option<LargeBlobReader>)>, Error>;

impl LargeBlobReader {
    /// Opens the file of an entry. A file of the wrong format is moved to the quarantine.
    pub(super) fn open(
        directory: Arc<BoundedDirectory>,
        entry: Entry,
        file: File,
        check: ReadCheck,
    ) -> Result<Self, Error> {
        let opened = BlobFile::open(file, &entry).map_err(|error| read_error(&directory, &entry, error))?;
        let file = opened.ok_or_else(|| quarantined(&directory, &entry))?;
        Ok(Self {
            directory,
            entry,
            file,
            check,
            done: 0,
        })
    }

    /// Streams the blob. The next chunk is read and checked while the consumer has the one before.
    pub(super) fn stream(self) -> BlobStream {
        let first = start_step(Some(self));
        futures::stream::try_unfold(first, |running| async move {
            // Only the shutdown of the runtime or a panic ends it otherwise.
            let step = running.await.map_err(io::Error::other);
            match step.map_err(Error::io("cannot read ahead"))?? {
                Some((chunk, rest)) => Ok(Some((chunk, start_step(rest)))),
                None => Ok(None),
            }
        })
        .boxed()
    }

    /// Reads the next chunk. The last one is only returned if the whole blob was right, so that a consumer cannot
    /// mistake corrupt bytes for a complete blob.
    pub(super) fn step(mut self) -> Step {
        let failed = |reader: &Self, error| read_error(&reader.directory, &reader.entry, error);
        let size = self.entry.digest.size_bytes();
        let left = size.saturating_sub(self.done);
        let chunk = self.file.next(left.min(CHUNK_BYTES));
        let chunk = chunk.map_err(|error| failed(&self, error))?.unwrap_or_default();
        self.check.update(&chunk);
        self.done += chunk.len() as u64;
        if !chunk.is_empty() && self.done < size {
            return Ok(Some((chunk, Some(self))));
        }
        let at_end = self.file.is_at_end();
        let at_end = at_end.map_err(|error| failed(&self, error))?;
        if at_end && self.done == size && self.check.finish() {
            Ok(Some((chunk, None)))
        } else {
            Err(quarantined(&self.directory, &self.entry))
        }
    }
}

fn start_step(reader: Option<LargeBlobReader>) -> JoinHandle<Step> {
    tokio::task::spawn_blocking(|| reader.map_or(Ok(None), LargeBlobReader::step))
}
