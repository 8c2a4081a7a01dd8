//! Store in memory, for tests and small caches.

use std::collections::{BTreeMap, HashSet};

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use parking_lot::RwLock;

use crate::blob_store::verification::verified;
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease, collect, one_chunk};
use crate::error::Error;

/// Store in memory, without eviction.
#[derive(Debug, Default)]
pub struct MemoryBlobStore {
    /// Blobs in order of their hashes, so that one can be looked up without its size.
    blobs: RwLock<BTreeMap<Digest, Bytes>>,
}

impl MemoryBlobStore {
    /// Removes a blob, as eviction does in other stores.
    pub fn remove(&self, digest: Digest) {
        self.blobs.write().remove(&digest);
    }
}

#[async_trait]
impl BlobStore for MemoryBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let blobs = self.blobs.read();
        let mut seen = HashSet::new();
        Ok(digests
            .iter()
            .filter(|digest| !digest.is_empty_blob() && !blobs.contains_key(digest) && seen.insert(**digest))
            .copied()
            .collect())
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let blob = self.blobs.read().get(&digest).cloned();
        let blob = match blob {
            Some(blob) => blob,
            None if digest.is_empty_blob() => Bytes::new(),
            None => return Err(Error::NotFound(digest)),
        };
        let out_of_range = || Error::OffsetOutOfRange {
            digest,
            offset: range.offset,
        };
        let start = usize::try_from(range.offset)
            .ok()
            .filter(|start| *start <= blob.len())
            .ok_or_else(out_of_range)?;
        let limit = range
            .limit
            .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        let end = start.saturating_add(limit).min(blob.len());
        Ok(one_chunk(blob.slice(start..end)))
    }

    async fn lease(&self, _: &[Digest]) -> Result<Lease, Error> {
        // Nothing is ever evicted.
        Ok(Lease::none())
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        let sizes = Digest::new(function, hash, 0)..=Digest::new(function, hash, u64::MAX);
        Ok(self.blobs.read().range(sizes).next().map(|(digest, _)| *digest))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let blobs = self.blobs.read();
        let read = |digest: &Digest| match blobs.get(digest) {
            Some(blob) => Ok(blob.clone()),
            None if digest.is_empty_blob() => Ok(Bytes::new()),
            None => Err(Error::NotFound(*digest)),
        };
        digests.iter().map(read).collect()
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let blob = collect(verified(digest, blob)).await?;
        self.blobs.write().insert(digest, blob);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
