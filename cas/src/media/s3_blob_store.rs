//! Store in an S3 bucket.

mod find_missing;
mod multipart;

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::Semaphore;

use crate::blob_store::verification::{is_whole, verified, verify};
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease, collect, one_chunk, read_each};
use crate::blocking::run_blocking;
use crate::error::{BackEndFailure, Error};
use crate::media::resumed_stream::{OpenPart, resumed};
use crate::media::s3_bucket::{Object, S3Bucket};

/// Requests of one call at the same time. S3 answers each in 10 to 50 ms and thousands in a second.
const MAX_CONCURRENT_REQUESTS: usize = 128;
/// Largest size of a blob that is sent with one request; larger ones are uploaded in parts.
const MAX_SINGLE_PUT_BYTES: u64 = 16 << 20;
/// Mebibytes that all writes together may hold in memory: S3 needs the hash of the bytes before they are sent.
const WRITE_MEMORY_MIB: usize = 128;
const MIB: u64 = 1 << 20;

/// Blobs of an [`S3Bucket`], under `cas/{function}/{hash}-{size}`.
///
/// Whole reads and all writes are hashed on the way, so wrong bytes from the network or from other users of the bucket
/// are never returned. A read that breaks continues where it broke. An upload in parts that fails is aborted; after the
/// death of the process its parts stay until a lifecycle rule for incomplete uploads removes them, which the bucket
/// should have.
///
/// Writes wait while others hold the memory for their parts, which includes writes whose sources are slow.
///
/// S3 evicts nothing and records no last use: see [`crate::S3Options::renew_after`] for the age of blobs. Those above
/// 5 GiB are not renewed.
pub struct S3BlobStore {
    bucket: Arc<S3Bucket>,
    memory: Arc<Semaphore>,
}

impl S3BlobStore {
    /// Makes a store of the blobs of `bucket`.
    pub fn new(bucket: Arc<S3Bucket>) -> Self {
        Self {
            bucket,
            memory: Arc::new(Semaphore::new(WRITE_MEMORY_MIB)),
        }
    }

    fn key(&self, digest: Digest) -> String {
        format!("{}-{}", self.start_of(digest), digest.size_bytes())
    }

    /// Start of the key of `digest`, which sorts before the key itself and after the keys of smaller hashes.
    fn start_of(&self, digest: Digest) -> String {
        format!("{}{}", self.prefix_of(digest.function()), digest.hash_hex())
    }

    fn prefix_of(&self, function: DigestFunction) -> String {
        self.bucket.key(match function {
            DigestFunction::Sha256 => "cas/sha256/",
            DigestFunction::Blake3 => "cas/blake3/",
        })
    }

    /// True if a blob is present. Renews an old one.
    async fn has(&self, digest: Digest) -> Result<bool, Error> {
        match self.bucket.head(self.key(digest)).await? {
            Some(object) => self.is_present(digest, &object).await,
            None => Ok(false),
        }
    }

    /// True if an object is the blob, and an old object could be renewed.
    async fn is_present(&self, digest: Digest, object: &Object) -> Result<bool, Error> {
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

    /// Reserves memory for some bytes until the permit is dropped.
    async fn reserve_memory(&self, bytes: u64) -> Option<tokio::sync::OwnedSemaphorePermit> {
        let mebibytes = usize::try_from(bytes.div_ceil(MIB))
            .unwrap_or(WRITE_MEMORY_MIB)
            .clamp(1, WRITE_MEMORY_MIB);
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
            let context = format_args!("S3 announces {announced} bytes of {key} instead of {length}");
            Err(Error::back_end(context, BackEndFailure::Faulty)("wrong length"))
        }
        _ => Ok(body),
    }
}

#[async_trait]
impl BlobStore for S3BlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.find_absent(digests).await
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let BlobRange { offset, limit } = range;
        let Some(rest) = digest.size_bytes().checked_sub(offset) else {
            return Err(Error::OffsetOutOfRange { digest, offset });
        };
        let length = limit.map_or(rest, |limit| limit.min(rest));
        if length == 0 {
            // A range of HTTP cannot be empty. The bytes are known if the blob is present.
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
        if digest.size_bytes() > MAX_SINGLE_PUT_BYTES {
            // A look-up costs less than an upload in parts.
            if self.has(digest).await? {
                return Ok(());
            }
            return self.put_parts(digest, blob).await;
        }
        let _memory = self.reserve_memory(digest.size_bytes()).await;
        let blob = collect(verified(digest, blob)).await?;
        self.bucket.put(&self.key(digest), blob).await
    }

    async fn lease(&self, _: &[Digest]) -> Result<Lease, Error> {
        // S3 evicts by the lifecycle rules of the bucket only; `find_missing` renews an object.
        Ok(Lease::none())
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        // The size is a part of the key, so a list of the keys that begin with the hash contains it.
        let start = self.start_of(Digest::new(function, hash, 0));
        let (page, _) = self.bucket.list(&start, &start).await?;
        let digests = page.iter().map(|object| Digest::new(function, hash, object.size));
        let mut right = digests
            .zip(&page)
            .filter(|(digest, object)| object.key == self.key(*digest));
        Ok(right.next().map(|(digest, _)| digest))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        read_each(self, digests, MAX_CONCURRENT_REQUESTS).await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        futures::stream::iter(blobs)
            .map(|(digest, blob)| self.put(digest, blob))
            .buffered(MAX_CONCURRENT_REQUESTS)
            .collect()
            .await
    }
}

#[cfg(test)]
mod tests;
