//! View of a shared store in which a tenant has only the blobs that it wrote.

mod possession;

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use hashbrown::HashSet;

use crate::blob_store::verification::verify;
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::blocking::run_blocking;
use crate::error::Error;

pub use possession::PossessionKey;
use possession::watched;

/// Markers that are computed without another thread, which takes longer than they do.
const MAX_INLINE_MARKERS: usize = 256;

/// Hides the blobs of other tenants in a store that several tenants share.
///
/// A tenant has a blob when all bytes of it came through [`BlobStore::write`] of its view, and were hashed here. Then a
/// *possession marker* is written: a blob of 32 bytes in the same store, which only the holder of the [`PossessionKey`] can
/// make. So possession lives where the blobs live: it survives restarts, is evicted like a blob, and is shared by all
/// servers that share the store and the key. A marker that is lost makes its blob missing, and the tenant uploads it
/// again. A marker that outlives its blob lets the tenant find the blob again when somebody writes it. Bytes are never
/// wrong either way.
///
/// It is the outermost decorator of a stack: the stores below may answer a write without reading it, because the blob
/// exists or because another writer has just written it. This one reads the rest and checks it before the tenant gets the
/// blob. The empty blob is everybody's.
pub struct IsolatedBlobStore {
    inner: Arc<dyn BlobStore>,
    key: PossessionKey,
}

impl IsolatedBlobStore {
    /// View of the tenant with this key.
    pub fn new(inner: Arc<dyn BlobStore>, key: PossessionKey) -> Self {
        Self { inner, key }
    }

    /// Digests of the markers of `digests`, in their order.
    async fn markers(&self, digests: &[Digest]) -> Vec<Digest> {
        let key = self.key.clone();
        if digests.len() <= MAX_INLINE_MARKERS {
            return digests.iter().map(|digest| key.marker_digest(*digest)).collect();
        }
        let digests = digests.to_vec();
        run_blocking(move || digests.iter().map(|digest| key.marker_digest(*digest)).collect()).await
    }

    /// Checks that the tenant has a blob.
    async fn check(&self, digest: Digest) -> Result<(), Error> {
        if digest.is_empty_blob() {
            return Ok(());
        }
        let marker = self.key.marker_digest(digest);
        if self.inner.find_missing(&[marker]).await?.is_empty() {
            Ok(())
        } else {
            Err(Error::NotFound(digest))
        }
    }
}

#[async_trait]
impl BlobStore for IsolatedBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let mut seen = HashSet::with_capacity(digests.len());
        let wanted: Vec<Digest> = digests
            .iter()
            .filter(|digest| !digest.is_empty_blob() && seen.insert(**digest))
            .copied()
            .collect();
        // The markers first: whoever lacks a blob does not extend its lifetime for others.
        let markers = self.markers(&wanted).await;
        let lost: HashSet<Digest> = self.inner.find_missing(&markers).await?.into_iter().collect();
        let (mut missing, mut own) = (Vec::new(), wanted);
        if !lost.is_empty() {
            let has_no_marker = |(_, marker): &(Digest, Digest)| lost.contains(marker);
            let (others, has) = own.into_iter().zip(markers).partition(has_no_marker);
            let digests =
                |pairs: Vec<(Digest, Digest)>| pairs.into_iter().map(|(digest, _)| digest).collect();
            (missing, own) = (digests(others), digests(has));
        }
        if !own.is_empty() {
            missing.append(&mut self.inner.find_missing(&own).await?);
        }
        Ok(missing)
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.check(digest).await?;
        self.inner.read(digest, range).await
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        if digest.is_empty_blob() {
            return self.inner.write(digest, blob).await;
        }
        let (blob, proof) = watched(digest, blob);
        self.inner.write(digest, blob).await?;
        // The inner store may have left bytes unread: it has the blob, which must stay until the rest is read.
        let _lease = self.inner.lease(&[digest]).await?;
        proof.complete().await?;
        let marker = self.key.marker(digest);
        self.inner.write_batch(vec![marker]).await.into_iter().collect()
    }

    /// Leases blobs and markers. A lease tells nothing, so those of other tenants need not be left out.
    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        let markers = self.markers(digests).await;
        self.inner.lease(&[digests, &markers].concat()).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        let Some(digest) = self.inner.resolve(function, hash).await? else {
            return Ok(None);
        };
        match self.check(digest).await {
            Ok(()) => Ok(Some(digest)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let markers = self.markers(digests).await;
        let missing: HashSet<Digest> = match self.inner.find_missing(&markers).await {
            Ok(missing) => missing.into_iter().collect(),
            // An error cannot be copied, so each blob asks for its own.
            Err(_) => return crate::blob_store::read_each(self, digests, 1).await,
        };
        let has = |(digest, marker): (&Digest, &Digest)| digest.is_empty_blob() || !missing.contains(marker);
        let own: Vec<bool> = digests.iter().zip(&markers).map(has).collect();
        let readable: Vec<Digest> = digests
            .iter()
            .zip(&own)
            .filter(|(_, own)| **own)
            .map(|(digest, _)| *digest)
            .collect();
        let mut blobs = self.inner.read_batch(&readable).await.into_iter();
        let answers = digests.iter().zip(own).map(|(digest, own)| {
            let blob = if own { blobs.next() } else { None };
            blob.unwrap_or(Err(Error::NotFound(*digest)))
        });
        answers.collect()
    }

    /// Hashes all blobs, because the inner store need not read those that it has.
    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let key = self.key.clone();
        let (mut answers, batch, count) = run_blocking(move || {
            let mut answers = Vec::with_capacity(blobs.len());
            let (mut batch, mut markers) = (Vec::with_capacity(2 * blobs.len()), Vec::new());
            for (digest, blob) in blobs {
                let checked = verify(digest, blob);
                if let Ok(blob) = &checked {
                    batch.push((digest, blob.clone()));
                    markers.push(key.marker(digest));
                }
                answers.push(checked.map(drop));
            }
            let count = batch.len();
            batch.extend(markers);
            (answers, batch, count)
        })
        .await;
        // The bytes are proven already, so a marker may be written whatever becomes of its blob.
        let mut blobs = self.inner.write_batch(batch).await;
        let markers = blobs.split_off(count.min(blobs.len()));
        let mut written = blobs
            .into_iter()
            .zip(markers)
            .map(|(blob, marker)| blob.and(marker));
        for answer in answers.iter_mut().filter(|answer| answer.is_ok()) {
            *answer = written.next().unwrap_or(Ok(()));
        }
        answers
    }
}

#[cfg(test)]
mod tests;
