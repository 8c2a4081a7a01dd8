//! Writing blobs: into a file without a name that anybody looks for, checked on the way, then moved into place.

use std::io::Write;
use std::sync::Arc;

use bitzel_proto::{Digest, Hasher};
use bytes::Bytes;
use futures::StreamExt;
use tempfile::NamedTempFile;

use crate::blob_store::BlobStream;
use crate::bounded_directory::{BoundedDirectory, Reservation};
use crate::error::Error;
use crate::file_stream::run_blocking;

/// Bytes that are gathered before a trip to the blocking threads.
const GATHERED: usize = 1 << 20;

/// Writes a blob of any size from a stream.
pub(super) async fn write(
    directory: &Arc<BoundedDirectory>,
    digest: Digest,
    mut blob: BlobStream,
) -> Result<(), Error> {
    let (chunks, at_end) = gather(&mut blob).await?;
    if at_end {
        let directory = Arc::clone(directory);
        return run_blocking(move || write_whole(&directory, digest, &chunks)).await;
    }
    let directory = Arc::clone(directory);
    let started = run_blocking(move || Writing::start(directory, digest)).await?;
    let Some(mut writing) = started else {
        return Ok(());
    };
    let (mut chunks, mut at_end) = (chunks, at_end);
    loop {
        writing = run_blocking(move || writing.add(&chunks)).await?;
        if at_end {
            break;
        }
        (chunks, at_end) = gather(&mut blob).await?;
    }
    run_blocking(move || writing.finish()).await
}

/// Takes chunks until there are enough for a trip; also says whether the stream is at its end.
async fn gather(blob: &mut BlobStream) -> Result<(Vec<Bytes>, bool), Error> {
    let mut chunks = Vec::new();
    let mut bytes = 0;
    while bytes < GATHERED {
        match blob.next().await {
            Some(chunk) => {
                let chunk = chunk?;
                bytes += chunk.len();
                chunks.push(chunk);
            }
            None => return Ok((chunks, true)),
        }
    }
    Ok((chunks, false))
}

/// Writes a blob that is in memory. Blocks.
pub(super) fn write_whole(
    directory: &Arc<BoundedDirectory>,
    digest: Digest,
    chunks: &[Bytes],
) -> Result<(), Error> {
    if digest.is_empty_blob() || directory.touch(digest) {
        return check(digest, hash(digest, chunks));
    }
    // Before room is made: a wrong blob must not cost a right one its place.
    check(digest, hash(digest, chunks))?;
    match Writing::start(Arc::clone(directory), digest)? {
        Some(mut writing) => {
            writing.write(chunks)?;
            writing.publish()
        }
        None => Ok(()),
    }
}

fn hash(digest: Digest, chunks: &[Bytes]) -> Hasher {
    let mut hasher = digest.function().hasher();
    for chunk in chunks {
        hasher.update(chunk);
    }
    hasher
}

fn check(expected: Digest, hasher: Hasher) -> Result<(), Error> {
    let actual = hasher.finish();
    if actual == expected {
        Ok(())
    } else {
        Err(Error::DigestMismatch { expected, actual })
    }
}

/// A file being written. Dropped at any point, it leaves nothing behind. All functions block.
struct Writing {
    directory: Arc<BoundedDirectory>,
    digest: Digest,
    file: NamedTempFile,
    reservation: Reservation,
    hasher: Hasher,
}

impl Writing {
    /// `None` when the blob is there already.
    fn start(directory: Arc<BoundedDirectory>, digest: Digest) -> Result<Option<Self>, Error> {
        if directory.touch(digest) {
            return Ok(None);
        }
        let reservation = directory.reserve(digest)?;
        let file = directory.new_file()?;
        Ok(Some(Self {
            directory,
            digest,
            file,
            reservation,
            hasher: digest.function().hasher(),
        }))
    }

    /// Hashes and writes; stops at the first byte too many.
    fn add(mut self, chunks: &[Bytes]) -> Result<Self, Error> {
        for chunk in chunks {
            self.hasher.update(chunk);
            if self.hasher.size_bytes() > self.digest.size_bytes() {
                return Err(Error::DigestMismatch {
                    expected: self.digest,
                    actual: self.hasher.finish(),
                });
            }
        }
        self.write(chunks)?;
        Ok(self)
    }

    fn write(&mut self, chunks: &[Bytes]) -> Result<(), Error> {
        for chunk in chunks {
            let written = self.file.write_all(chunk);
            written.map_err(Error::io(format!("cannot write {}", self.file.path().display())))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), Error> {
        let hasher = std::mem::replace(&mut self.hasher, self.digest.function().hasher());
        check(self.digest, hasher)?;
        self.publish()
    }

    fn publish(self) -> Result<(), Error> {
        let (directory, digest) = (&self.directory, self.digest);
        directory.publish(digest, self.file, self.reservation, false)
    }
}
