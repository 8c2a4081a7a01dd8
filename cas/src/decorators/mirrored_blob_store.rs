//! Mirror of two blob stores.

mod repair;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use tracing::warn;

use crate::blob_store::verification::is_whole;
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::decorators::tee::{copied, write_both};
use crate::error::Error;
use bitzel_proto::with_causes;

use repair::Repair;

/// Policy for writes and `find_missing` while one side of a mirror fails. Reads are served by the other side in any
/// case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OneSideDown {
    /// They fail: an acknowledged blob is on both sides.
    #[default]
    Refuse,
    /// They go on with the other side, so a blob that is written then exists once until it is repaired.
    Degrade,
}

impl OneSideDown {
    /// [`OneSideDown::Degrade`] if `degrade` is true.
    pub fn degrade_if(degrade: bool) -> Self {
        if degrade { Self::Degrade } else { Self::Refuse }
    }
}

/// Writes everything to two stores and reads from either.
///
/// A blob that only one side has is copied to the other: by a read as it passes to the reader, and in the background
/// when `find_missing` detects it. Each side is the first choice for half of the digests, which shares the load.
pub struct MirroredBlobStore {
    sides: [Arc<dyn BlobStore>; 2],
    one_side_down: OneSideDown,
    repair: Repair,
}

impl MirroredBlobStore {
    /// A mirror of two stores, in any order that is the same every time. To be called on a runtime.
    pub fn new(one: Arc<dyn BlobStore>, other: Arc<dyn BlobStore>, one_side_down: OneSideDown) -> Self {
        Self {
            repair: Repair::start([Arc::clone(&one), Arc::clone(&other)]),
            sides: [one, other],
            one_side_down,
        }
    }

    /// Waits until every repair that `find_missing` has requested so far has ended.
    pub async fn repaired(&self) {
        self.repair.settled().await;
    }

    /// The side that is the first choice for a blob.
    fn first(digest: Digest) -> usize {
        usize::from(digest.hash()[31] & 1)
    }

    /// Combines the results of both sides of a write.
    fn written(&self, digest: Digest, results: [Result<(), Error>; 2]) -> Result<(), Error> {
        let [one, other] = results;
        let error = match (one, other) {
            (Ok(()), Ok(())) => return Ok(()),
            (Err(error), Ok(())) | (Ok(()), Err(error)) => {
                if self.one_side_down == OneSideDown::Degrade && !error.is_about_the_request() {
                    let error = with_causes(&error);
                    warn!(%digest, error, "a blob was written to one side of a mirror only");
                    return Ok(());
                }
                error
            }
            // An error in the blob says more than that a side is down.
            (Err(one), Err(other)) if other.is_about_the_request() && !one.is_about_the_request() => other,
            (Err(one), Err(_)) => one,
        };
        Err(error)
    }

    /// Reads from the second side a blob that the first lacks or fails to serve.
    async fn read_second(
        &self,
        digest: Digest,
        range: BlobRange,
        first: usize,
        error: Error,
    ) -> Result<BlobStream, Error> {
        let lacks = matches!(error, Error::NotFound(_));
        if !lacks && error.is_about_the_request() {
            return Err(error);
        }
        let stream = match self.sides[1 - first].read(digest, range).await {
            Ok(stream) => stream,
            // A blob that may be on the side that is down is not known to be missing.
            Err(Error::NotFound(_)) if !lacks => return Err(error),
            Err(error) => return Err(error),
        };
        if !lacks || !is_whole(digest, range) {
            return Ok(stream);
        }
        let target = Arc::clone(&self.sides[first]);
        Ok(copied(digest, stream, target, move |copied| {
            repair::count(digest, &copied);
        }))
    }
}

#[async_trait]
impl BlobStore for MirroredBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let [one, other] = &self.sides;
        let (one, other) = match tokio::join!(one.find_missing(digests), other.find_missing(digests)) {
            (Ok(one), Ok(other)) => (one, other),
            (Ok(missing), Err(error)) | (Err(error), Ok(missing)) => {
                if self.one_side_down == OneSideDown::Refuse || error.is_about_the_request() {
                    return Err(error);
                }
                let error = with_causes(&error);
                warn!(
                    error,
                    "one side of a mirror fails; the other alone says what is missing"
                );
                return Ok(missing);
            }
            (Err(error), Err(_)) => return Err(error),
        };
        let missing_in_one: HashSet<Digest> = one.iter().copied().collect();
        let missing_in_other: HashSet<Digest> = other.iter().copied().collect();
        for digest in missing_in_one.difference(&missing_in_other) {
            self.repair.request(*digest, 0);
        }
        for digest in missing_in_other.difference(&missing_in_one) {
            self.repair.request(*digest, 1);
        }
        Ok(one
            .into_iter()
            .filter(|digest| missing_in_other.contains(digest))
            .collect())
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let first = Self::first(digest);
        match self.sides[first].read(digest, range).await {
            Ok(stream) => Ok(stream),
            Err(error) => self.read_second(digest, range, first, error).await,
        }
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let [one, other] = &self.sides;
        let write_one = |stream| one.write(digest, stream);
        let write_other = |stream| other.write(digest, stream);
        let (one, other) = write_both(digest, blob, write_one, write_other).await?;
        self.written(digest, [one, other])
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        let [one, other] = &self.sides;
        match tokio::join!(one.lease(digests), other.lease(digests)) {
            (Ok(one), Ok(other)) => Ok(one.and(other)),
            // One side that keeps the blobs is enough to read them.
            (Ok(lease), Err(_)) | (Err(_), Ok(lease)) => Ok(lease),
            (Err(error), Err(_)) => Err(error),
        }
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        let first = Self::first(Digest::new(function, hash, 0));
        let found = self.sides[first].resolve(function, hash).await;
        if let Ok(Some(_)) = found {
            return found;
        }
        match self.sides[1 - first].resolve(function, hash).await {
            // A blob that may be on the side that is down is not known to be missing.
            Ok(None) => found,
            answer => answer,
        }
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        // The first side of a batch is that of its first digest: one request instead of two halves.
        let first = digests.first().map_or(0, |digest| Self::first(*digest));
        let mut results = self.sides[first].read_batch(digests).await;
        let failed = |result: &Result<Bytes, Error>| match result {
            Ok(_) => false,
            Err(error) => matches!(error, Error::NotFound(_)) || !error.is_about_the_request(),
        };
        let (places, again): (Vec<usize>, Vec<Digest>) = results
            .iter()
            .enumerate()
            .filter(|(_, result)| failed(result))
            .map(|(place, _)| (place, digests[place]))
            .unzip();
        if again.is_empty() {
            return results;
        }
        let mut repairs = Vec::new();
        for (place, second) in places
            .into_iter()
            .zip(self.sides[1 - first].read_batch(&again).await)
        {
            let lacked = matches!(results[place], Err(Error::NotFound(_)));
            match second {
                Ok(blob) => {
                    if lacked {
                        repairs.push((digests[place], blob.clone()));
                    }
                    results[place] = Ok(blob);
                }
                Err(Error::NotFound(_)) => {}
                Err(error) => results[place] = Err(error),
            }
        }
        let repaired: Vec<Digest> = repairs.iter().map(|(digest, _)| *digest).collect();
        if !repaired.is_empty() {
            for (digest, copied) in repaired
                .into_iter()
                .zip(self.sides[first].write_batch(repairs).await)
            {
                repair::count(digest, &copied);
            }
        }
        results
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let [one, other] = &self.sides;
        let (one, other) = tokio::join!(one.write_batch(blobs.clone()), other.write_batch(blobs));
        let results = digests.into_iter().zip(one.into_iter().zip(other));
        results
            .map(|(digest, (one, other))| self.written(digest, [one, other]))
            .collect()
    }
}

#[cfg(test)]
mod tests;
