//! Writes of blobs. Each is checked; small ones go into segments, many with one write, and large ones into files.

use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::Bytes;
use futures::StreamExt;

use super::SMALL_BLOB_BYTES;
use super::encoding;
use super::integrity::WriteCheck;
use super::large_blob_writer::LargeBlobWriter;
use crate::blob_store::verification::verify;
use crate::blob_store::{BlobStream, join};
use crate::blocking::run_blocking;
use crate::error::Error;
use crate::media::bounded_directory::{BoundedDirectory, Encoding, SmallEntry};

/// Bytes that are collected before a call on a blocking thread.
const WRITE_BUFFER_BYTES: u64 = 1 << 20;

/// Target of writes: the directory, and the choice of compression.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) directory: Arc<BoundedDirectory>,
    pub(super) compress: bool,
}

impl Target {
    /// Upper bound of the bytes that a blob takes on the disk.
    pub(super) fn max_stored_bytes(&self, size: u64) -> u64 {
        if self.compress {
            encoding::max_encoded_bytes(size)
        } else {
            size
        }
    }
}

/// Writes a blob of any size from a stream.
pub(super) async fn write(target: &Target, digest: Digest, mut blob: BlobStream) -> Result<(), Error> {
    if target.directory.touch(digest) {
        return Ok(());
    }
    if digest.size_bytes() <= SMALL_BLOB_BYTES {
        // One byte too many is enough to detect a wrong blob.
        let (chunks, _) = read_chunks(&mut blob, digest.size_bytes().saturating_add(1)).await?;
        let blob = join(chunks);
        let target = target.clone();
        let written = run_blocking(move || write_all(&target, vec![(digest, blob)])).await;
        return written.into_iter().collect();
    }
    let (mut chunks, mut at_end) = read_chunks(&mut blob, WRITE_BUFFER_BYTES).await?;
    if at_end {
        check_size(digest, &chunks)?;
    }
    let target = target.clone();
    let started = run_blocking(move || LargeBlobWriter::start(target, digest)).await?;
    let Some(mut writer) = started else {
        return Ok(());
    };
    let mut check = WriteCheck::new(digest);
    loop {
        // Hashing takes as long as writing, so they run at the same time, while the next bytes come in.
        let hashed = chunks.clone();
        let hashing = run_blocking(move || check.update(&hashed).map(|()| check));
        let adding = run_blocking(move || writer.add(&chunks));
        let next = async {
            if at_end {
                return Ok((Vec::new(), true));
            }
            read_chunks(&mut blob, WRITE_BUFFER_BYTES).await
        };
        let (hashed, added, next) = tokio::join!(hashing, adding, next);
        (check, writer) = (hashed?, added?);
        if at_end {
            return run_blocking(move || writer.finish(check.finish()?)).await;
        }
        (chunks, at_end) = next?;
    }
}

/// Checks the size of a complete blob before space is made for it: a blob that ends early must not cause evictions.
fn check_size(expected: Digest, chunks: &[Bytes]) -> Result<(), Error> {
    let size: usize = chunks.iter().map(Bytes::len).sum();
    if size as u64 == expected.size_bytes() {
        return Ok(());
    }
    WriteCheck::whole(expected, chunks).map(drop)
}

/// Reads chunks until there are `enough` bytes. The flag is true if the stream is at its end.
async fn read_chunks(blob: &mut BlobStream, enough: u64) -> Result<(Vec<Bytes>, bool), Error> {
    let mut chunks = Vec::new();
    let mut bytes = 0;
    while bytes < enough {
        match blob.next().await {
            Some(chunk) => {
                let chunk = chunk?;
                bytes += chunk.len() as u64;
                chunks.push(chunk);
            }
            None => return Ok((chunks, true)),
        }
    }
    Ok((chunks, false))
}

/// Writes blobs that are in memory, all small ones with one system call.
pub(super) fn write_all(target: &Target, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
    let directory = &target.directory;
    let mut results: Vec<Option<Result<(), Error>>> = Vec::with_capacity(blobs.len());
    let mut small_entries = Vec::with_capacity(blobs.len());
    for (digest, blob) in blobs {
        let known = if digest.is_empty_blob() && blob.is_empty() {
            Some(Ok(()))
        } else if digest.size_bytes() > SMALL_BLOB_BYTES {
            Some(write_large(target, digest, blob))
        } else {
            // Before space is made: a wrong blob must not cause evictions.
            match verify(digest, blob) {
                Ok(blob) => {
                    small_entries.push(small_entry(target, digest, blob));
                    None
                }
                Err(error) => Some(Err(error)),
            }
        };
        results.push(known);
    }
    let mut put = directory.insert_small(&small_entries, false).into_iter();
    let result = |known: Option<_>| known.or_else(|| put.next()).unwrap_or(Ok(()));
    results.into_iter().map(result).collect()
}

fn small_entry(target: &Target, digest: Digest, blob: Bytes) -> SmallEntry {
    let compressed = target.compress.then(|| encoding::compress(&blob)).flatten();
    let (encoding, content) = match compressed {
        Some(compressed) => (Encoding::Zstd, compressed),
        None => (Encoding::Raw, blob),
    };
    SmallEntry {
        digest,
        encoding,
        content,
    }
}

fn write_large(target: &Target, digest: Digest, blob: Bytes) -> Result<(), Error> {
    let chunks = [blob];
    let checksum = WriteCheck::whole(digest, &chunks)?;
    match LargeBlobWriter::start(target.clone(), digest)? {
        Some(writer) => writer.add(&chunks)?.finish(checksum),
        None => Ok(()),
    }
}
