//! Blob store whose blobs are spread over several others.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::future::join_all;

use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::decorators::rendezvous::Rendezvous;
use crate::error::Error;

/// A part of a sharded store or action cache.
pub struct Shard<T: ?Sized> {
    /// Its name, which decides with the digest which blobs it holds. Servers that share the shards must use the same
    /// names.
    pub name: String,
    /// Its share, relative to the weights of the others. At least 1.
    pub weight: u32,
    /// The store or cache itself.
    pub store: Arc<T>,
}

/// Sends every blob to the shard that weighted rendezvous hashing chooses for it. Batches are split and run on all
/// shards at once.
///
/// A shard that fails fails the calls that concern its blobs; use mirrored stores as shards to survive that. After a
/// change of shards, blobs that now belong to another one are absent until a client writes them again, and the shard
/// that had them evicts them in time.
pub struct ShardedBlobStore {
    rendezvous: Rendezvous,
    stores: Vec<Arc<dyn BlobStore>>,
}

impl ShardedBlobStore {
    /// A store of these shards: at least one, with distinct names and weights above zero.
    pub fn new(shards: Vec<Shard<dyn BlobStore>>) -> Result<Self, Error> {
        Ok(Self {
            rendezvous: Rendezvous::new(shards.iter().map(|shard| (shard.name.as_str(), shard.weight)))?,
            stores: shards.into_iter().map(|shard| shard.store).collect(),
        })
    }

    fn store(&self, digest: Digest) -> &Arc<dyn BlobStore> {
        &self.stores[self.rendezvous.shard_of(digest)]
    }

    /// Splits items into those of each shard, with their indices in `items`.
    fn split<T>(&self, items: Vec<T>, digest: impl Fn(&T) -> Digest) -> Vec<(Vec<usize>, Vec<T>)> {
        let mut parts: Vec<(Vec<usize>, Vec<T>)> = Vec::new();
        parts.resize_with(self.rendezvous.len(), Default::default);
        for (place, item) in items.into_iter().enumerate() {
            let (places, part) = &mut parts[self.rendezvous.shard_of(digest(&item))];
            places.push(place);
            part.push(item);
        }
        parts
    }

    /// Runs `call` on each shard that has a part, and returns the answers in the order of `items`.
    async fn on_parts<'a, T, A, F>(
        &'a self,
        items: Vec<T>,
        digest: impl Fn(&T) -> Digest,
        call: impl Fn(&'a dyn BlobStore, Vec<T>) -> F,
    ) -> Vec<A>
    where
        F: Future<Output = Vec<A>>,
    {
        let parts = self.split(items, digest).into_iter().zip(&self.stores);
        let calls = parts
            .filter(|((places, _), _)| !places.is_empty())
            .map(|((places, part), store)| {
                let answers = call(store.as_ref(), part);
                async move { places.into_iter().zip(answers.await) }
            });
        let mut answers: Vec<(usize, A)> = join_all(calls).await.into_iter().flatten().collect();
        answers.sort_unstable_by_key(|(place, _)| *place);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

#[async_trait]
impl BlobStore for ShardedBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let parts = self.split(digests.to_vec(), |digest| *digest);
        let calls = parts
            .into_iter()
            .zip(&self.stores)
            .filter(|((places, _), _)| !places.is_empty())
            .map(|((_, part), store)| async move { store.find_missing(&part).await });
        Ok(futures::future::try_join_all(calls).await?.concat())
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.store(digest).read(digest, range).await
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        self.store(digest).write(digest, blob).await
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        let parts = self.split(digests.to_vec(), |digest| *digest);
        let mut all = Lease::none();
        for ((_, part), store) in parts.into_iter().zip(&self.stores) {
            all = all.and(store.lease(&part).await?);
        }
        Ok(all)
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        // The size has no part in the choice of the shard.
        let any_size = Digest::new(function, hash, 0);
        self.store(any_size).resolve(function, hash).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.on_parts(digests.to_vec(), |digest| *digest, read_part).await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        self.on_parts(blobs, |(digest, _)| *digest, <dyn BlobStore>::write_batch)
            .await
    }
}

async fn read_part(store: &dyn BlobStore, digests: Vec<Digest>) -> Vec<Result<Bytes, Error>> {
    store.read_batch(&digests).await
}

#[cfg(test)]
mod tests;
