//! Reading files, with a check of what was read whole. All functions block.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use bitzel_proto::{Digest, Hasher};
use bytes::Bytes;
use futures::StreamExt;

use super::SMALL;
use crate::blob_store::{BlobRange, BlobStream, one_chunk};
use crate::bounded_directory::BoundedDirectory;
use crate::error::Error;
use crate::file_stream::{file_stream, read_up_to, run_blocking};
use crate::verifying_blob_store::is_whole;

/// Bytes that one step of a stream reads.
const CHUNK: u64 = 1 << 20;

/// Whether the file is that of the digest.
pub(super) fn is_intact(path: &Path, digest: Digest) -> bool {
    let mut hasher = digest.function().hasher();
    let copied = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hasher));
    copied.is_ok() && hasher.finish() == digest
}

/// Opens a blob, which counts as used.
fn open(directory: &BoundedDirectory, digest: Digest) -> Result<File, Error> {
    if !directory.touch(digest) {
        return Err(Error::NotFound(digest));
    }
    let path = directory.path(digest);
    match File::open(&path) {
        Ok(file) => Ok(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // Evicted just now, or removed by somebody else.
            directory.forget(digest);
            Err(Error::NotFound(digest))
        }
        Err(error) => Err(Error::io(format!("cannot open {}", path.display()))(error)),
    }
}

/// Reads a blob into memory.
pub(super) fn read_whole(directory: &BoundedDirectory, digest: Digest) -> Result<Bytes, Error> {
    if digest.is_empty_blob() {
        return Ok(Bytes::new());
    }
    let file = open(directory, digest)?;
    let blob = read_up_to(&file, digest.size_bytes().saturating_add(1)).map_err(failed(directory, digest))?;
    if digest.function().digest(&blob) != digest {
        directory.quarantine(digest);
        return Err(Error::NotFound(digest));
    }
    Ok(blob)
}

/// Streams a blob or a part of it.
pub(super) fn read(
    directory: Arc<BoundedDirectory>,
    digest: Digest,
    range: BlobRange,
) -> Result<BlobStream, Error> {
    if !is_whole(digest, range) {
        return read_part(&directory, digest, range);
    }
    if digest.size_bytes() <= SMALL {
        return read_whole(&directory, digest).map(one_chunk);
    }
    let file = open(&directory, digest)?;
    let state = Some(Reading {
        directory,
        digest,
        file,
        hasher: digest.function().hasher(),
    });
    Ok(futures::stream::try_unfold(state, |reading| async {
        match reading {
            Some(reading) => run_blocking(move || reading.step()).await,
            None => Ok(None),
        }
    })
    .boxed())
}

fn read_part(directory: &BoundedDirectory, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
    let mut file = open(directory, digest)?;
    let size = file.metadata().map_err(failed(directory, digest))?.len();
    if size != digest.size_bytes() {
        directory.quarantine(digest);
        return Err(Error::NotFound(digest));
    }
    file.seek(SeekFrom::Start(range.offset))
        .map_err(failed(directory, digest))?;
    let limit = range.limit.unwrap_or(u64::MAX);
    Ok(file_stream(file, directory.path(digest), limit))
}

/// A large blob being read and hashed.
struct Reading {
    directory: Arc<BoundedDirectory>,
    digest: Digest,
    file: File,
    hasher: Hasher,
}

impl Reading {
    /// The next chunk. The last one is only handed out when the whole blob was right, so that a consumer cannot
    /// take corrupt bytes for a complete blob.
    fn step(mut self) -> Result<Option<(Bytes, Option<Self>)>, Error> {
        let left = self.digest.size_bytes() - self.hasher.size_bytes();
        let chunk = read_up_to(&self.file, left.min(CHUNK)).map_err(failed(&self.directory, self.digest))?;
        self.hasher.update(&chunk);
        if !chunk.is_empty() && self.hasher.size_bytes() < self.digest.size_bytes() {
            return Ok(Some((chunk, Some(self))));
        }
        let more = (&self.file)
            .read(&mut [0])
            .map_err(failed(&self.directory, self.digest))?;
        if more == 0 && self.hasher.finish() == self.digest {
            Ok(Some((chunk, None)))
        } else {
            self.directory.quarantine(self.digest);
            Err(Error::NotFound(self.digest))
        }
    }
}

fn failed(directory: &BoundedDirectory, digest: Digest) -> impl FnOnce(io::Error) -> Error + use<> {
    Error::io(format!("cannot read {}", directory.path(digest).display()))
}
