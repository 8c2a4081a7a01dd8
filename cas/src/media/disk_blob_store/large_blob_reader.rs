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
use crate::blob_store::chunk_limit::chunk_limit;
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

    /// Streams the blob to a consumer with space for `limit` bytes. If that is enough, the next chunk is read and checked
    /// while the consumer has the one before; otherwise it is read when the consumer asks.
    pub(super) fn stream(self, limit: Option<u64>) -> BlobStream {
        let first = NextStep::after(Some(self), limit);
        futures::stream::try_unfold(first, |next| async move {
            let running = match next {
                NextStep::Running(running) => running,
                NextStep::Waiting(reader) => start_step(*reader, chunk_limit()),
            };
            // Only the shutdown of the runtime or a panic ends it otherwise.
            let step = running.await.map_err(io::Error::other);
            match step.map_err(Error::io("cannot read ahead"))?? {
                Some((chunk, rest)) => Ok(Some((chunk, NextStep::after(rest, chunk_limit())))),
                None => Ok(None),
            }
        })
        .boxed()
    }

    /// Reads the next chunk. The last one is only returned if the whole blob was right, so that a consumer cannot
    /// mistake corrupt bytes for a complete blob.
    pub(super) fn step(self) -> Step {
        self.step_of(CHUNK_BYTES)
    }

    /// Reads as [`step`](Self::step), at most `bytes` of an uncompressed file.
    fn step_of(mut self, bytes: u64) -> Step {
        let failed = |reader: &Self, error| read_error(&reader.directory, &reader.entry, error);
        let size = self.entry.digest.size_bytes();
        let left = size.saturating_sub(self.done);
        let chunk = self.file.next(left.min(bytes));
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

/// Step of a stream that follows.
enum NextStep {
    /// Reads ahead.
    Running(JoinHandle<Step>),
    /// Begins when the consumer asks.
    Waiting(Box<Option<LargeBlobReader>>),
}

impl NextStep {
    /// Begins to read ahead if the consumer has space for that.
    fn after(reader: Option<LargeBlobReader>, limit: Option<u64>) -> Self {
        if limit.is_none_or(|limit| limit >= CHUNK_BYTES) {
            Self::Running(start_step(reader, limit))
        } else {
            Self::Waiting(Box::new(reader))
        }
    }
}

fn start_step(reader: Option<LargeBlobReader>, limit: Option<u64>) -> JoinHandle<Step> {
    let bytes = limit.map_or(CHUNK_BYTES, |limit| limit.clamp(1, CHUNK_BYTES));
    tokio::task::spawn_blocking(move || reader.map_or(Ok(None), |reader| reader.step_of(bytes)))
}
