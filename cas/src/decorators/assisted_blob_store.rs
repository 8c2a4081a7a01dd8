//! A store that takes from another one what it lacks.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;

use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::decorators::assistant::Assistant;
use crate::decorators::tiered_blob_store::TieredBlobStore;
use crate::error::Error;

/// A store of its own, and a remote one that helps out with what is not here.
///
/// For builds that run on this machine and share results through a cache that others fill too. Unlike in a
/// [`TieredBlobStore`], the store at hand is the one that counts: writes go there alone, and
/// [`crate::SharingActionCache`] brings to the remote what results name. A remote that is down or slow to answer makes
/// blobs missing, never a build fail.
pub struct AssistedBlobStore {
    local: Arc<dyn BlobStore>,
    /// Reads of the remote, filling `local` on the way.
    through: TieredBlobStore,
    remote: Arc<dyn BlobStore>,
    assistant: Arc<Assistant>,
}

impl AssistedBlobStore {
    /// `local`, with the help of `remote`, which is not trusted: what it sends is verified before it counts.
    pub fn new(local: Arc<dyn BlobStore>, remote: Arc<dyn BlobStore>, assistant: Arc<Assistant>) -> Self {
        Self {
            through: TieredBlobStore::write_through(Arc::clone(&local), Arc::clone(&remote)),
            local,
            remote,
            assistant,
        }
    }
}

#[async_trait]
impl BlobStore for AssistedBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let missing = self.local.find_missing(digests).await?;
        if missing.is_empty() {
            return Ok(missing);
        }
        let answer = self.assistant.ask(self.remote.find_missing(&missing)).await;
        Ok(answer.unwrap_or(missing))
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        match self.local.read(digest, range).await {
            Err(Error::NotFound(_)) => {}
            answer => return answer,
        }
        let answer = self.assistant.ask(self.through.read(digest, range)).await;
        answer.ok_or(Error::NotFound(digest))
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        self.local.write(digest, blob).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let mut blobs = self.local.read_batch(digests).await;
        let lacking: Vec<usize> = (0..blobs.len())
            .filter(|&place| matches!(blobs[place], Err(Error::NotFound(_))))
            .collect();
        if lacking.is_empty() {
            return blobs;
        }
        let wanted: Vec<Digest> = lacking.iter().map(|&place| digests[place]).collect();
        let asked = async { Ok(self.through.read_batch(&wanted).await) };
        if let Some(found) = self.assistant.ask(asked).await {
            for (place, blob) in lacking.into_iter().zip(found) {
                blobs[place] = match blob {
                    Err(error @ Error::NotFound(_)) => Err(error),
                    Err(error) => {
                        self.assistant.failed(&error);
                        Err(Error::NotFound(digests[place]))
                    }
                    blob => blob,
                };
            }
        }
        blobs
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        self.local.write_batch(blobs).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        if let Some(digest) = self.local.resolve(function, hash).await? {
            return Ok(Some(digest));
        }
        let answer = self.assistant.ask(self.remote.resolve(function, hash)).await;
        Ok(answer.flatten())
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        self.local.lease(digests).await
    }
}

#[cfg(test)]
mod tests;
