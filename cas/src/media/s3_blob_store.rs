//! A store in an S3 bucket.

mod finding;
mod multipart;

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Semaphore;

use crate::blob_store::{BlobRange, BlobStore, BlobStream, collect, one_chunk, read_whole};
use crate::blocking::run_blocking;
use crate::decorators::verifying_blob_store::{is_whole, verified, verify};
use crate::error::{BackEndFailure, Error};
use crate::media::resumed_stream::{OpenPart, resumed};
use crate::media::s3_bucket::{Object, S3Bucket};

/// Requests of one call under way at the same time. S3 answers each in 10 to 50 ms and thousands in a second.
const CONCURRENCY: usize = 128;
/// Larger blobs go in parts.
const SINGLE_PUT: u64 = 16 << 20;
/// Mebibytes that all writes together hold in memory at a time: S3 takes bytes whose hash is known beforehand.
const MEMORY_MIB: usize = 128;
const MIB: u64 = 1 << 20;

/// The blobs of an [`S3Bucket`], under `cas/{function}/{hash}-{size}`.
///
/// Whole reads and all writes are hashed on the way, so neither the network nor the bucket's other users can make it
/// hand out wrong bytes. A read that breaks goes on where it broke. An upload in parts that fails is aborted; one that
/// was cut off by the death of the process stays until a lifecycle rule for incomplete uploads removes it, which the
/// bucket should have.
///
/// Writes wait while others hold the memory for their parts, which includes writes whose sources are slow.
///
/// S3 evicts nothing and knows no last use: see [`crate::S3Options::renew_after`] for how blobs grow old. Those above
/// 5 GiB are not renewed.
pub struct S3BlobStore {
    bucket: Arc<S3Bucket>,
    memory: Arc<Semaphore>,
}

impl S3BlobStore {
    /// The blobs of `bucket`.
    pub fn new(bucket: Arc<S3Bucket>) -> Self {
        Self {
            bucket,
            memory: Arc::new(Semaphore::new(MEMORY_MIB)),
        }
    }

    fn key(&self, digest: Digest) -> String {
        format!("{}-{}", self.start_of(digest), digest.size_bytes())
    }

    /// Comes before the key of `digest` and after that of every smaller hash.
    fn start_of(&self, digest: Digest) -> String {
        format!("{}{}", self.prefix_of(digest.function()), digest.hash_hex())
    }

    fn prefix_of(&self, function: DigestFunction) -> String {
        self.bucket.key(match function {
            DigestFunction::Sha256 => "cas/sha256/",
            DigestFunction::Blake3 => "cas/blake3/",
        })
    }

    /// Whether a blob is there. Renews one that is old.
    async fn has(&self, digest: Digest) -> Result<bool, Error> {
        match self.bucket.head(self.key(digest)).await? {
            Some(object) => self.keep(digest, &object).await,
            None => Ok(false),
        }
    }

    /// Whether an object that was found is the blob, and still is after it was renewed if it is old.
    async fn keep(&self, digest: Digest, object: &Object) -> Result<bool, Error> {
        if object.size != digest.size_bytes() {
            return Ok(false);
        }
        if self.bucket.is_old(object) {
            return self.bucket.renew(&object.key).await;
        }
        Ok(true)
    }

    async fn put(&self, digest: Digest, blob: Bytes) -> Result<(), Error> {
        let blob = run_blocking(move || verify(digest, blob)).await?;
        self.bucket.put(&self.key(digest), blob).await
    }

    /// Room in memory for some bytes; given back when the permit is dropped.
    async fn room(&self, bytes: u64) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let mebibytes = usize::try_from(bytes.div_ceil(MIB))
            .unwrap_or(MEMORY_MIB)
            .clamp(1, MEMORY_MIB);
        let permits = u32::try_from(mebibytes).unwrap_or(1);
        Arc::clone(&self.memory).acquire_many_owned(permits).await.ok()
    }
}

async fn open_part(
    bucket: Arc<S3Bucket>,
    key: String,
    digest: Digest,
    offset: u64,
    length: u64,
) -> Result<BlobStream, Error> {
    let part = (offset > 0 || length < digest.size_bytes()).then_some((offset, length));
    let (announced, body) = bucket.get(&key, part).await?.ok_or(Error::NotFound(digest))?;
    match announced {
        Some(announced) if announced != length => {
            let context = format!("S3 announces {announced} bytes of {key} instead of {length}");
            Err(Error::back_end(context, BackEndFailure::Faulty)("wrong length"))
        }
        _ => Ok(body),
    }
}

#[async_trait]
impl BlobStore for S3BlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.find(digests).await
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let BlobRange { offset, limit } = range;
        let Some(rest) = digest.size_bytes().checked_sub(offset) else {
            return Err(Error::OffsetOutOfRange { digest, offset });
        };
        let length = limit.map_or(rest, |limit| limit.min(rest));
        if length == 0 {
            // No range of HTTP says this. The answer is known if the blob is there.
            return if digest.is_empty_blob() || self.has(digest).await? {
                Ok(one_chunk(Bytes::new()))
            } else {
                Err(Error::NotFound(digest))
            };
        }
        let (bucket, key) = (Arc::clone(&self.bucket), self.key(digest));
        let open: OpenPart = Arc::new(move |offset, length| {
            Box::pin(open_part(
                Arc::clone(&bucket),
                key.clone(),
                digest,
                offset,
                length,
            ))
        });
        let stream = resumed(open(offset, length).await?, offset, length, open);
        Ok(if is_whole(digest, range) {
            verified(digest, stream)
        } else {
            stream
        })
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        if digest.size_bytes() > SINGLE_PUT {
            // Parts are worth a question first.
            if self.has(digest).await? {
                return Ok(());
            }
            return self.put_parts(digest, blob).await;
        }
        let _room = self.room(digest.size_bytes()).await;
        let blob = collect(verified(digest, blob)).await?;
        self.bucket.put(&self.key(digest), blob).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        // The size is a part of the key, so a list of what begins with the hash tells it.
        let start = self.start_of(Digest::new(function, hash, 0));
        let (page, _) = self.bucket.list(&start, &start).await?;
        let digests = page.iter().map(|object| Digest::new(function, hash, object.size));
        let mut right = digests
            .zip(&page)
            .filter(|(digest, object)| object.key == self.key(*digest));
        Ok(right.next().map(|(digest, _)| digest))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        futures::stream::iter(digests.iter().copied())
            .map(|digest| read_whole(self, digest))
            .buffered(CONCURRENCY)
            .collect()
            .await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        futures::stream::iter(blobs)
            .map(|(digest, blob)| self.put(digest, blob))
            .buffered(CONCURRENCY)
            .collect()
            .await
    }
}

#[cfg(test)]
mod tests;
