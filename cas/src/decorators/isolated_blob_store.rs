//! View of a shared store in which a tenant has only the blobs that it wrote.

mod confirmed_markers;
mod possession;

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use hashbrown::HashSet;

use crate::blob_store::verification::verify;
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease, read_whole};
use crate::blocking::run_blocking;
use crate::error::Error;

pub use confirmed_markers::ConfirmedMarkers;
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
/// Reads ask for the bytes of a marker, not for its existence: stores serve reads when a part of them is down, and some
/// caches say of every blob that it exists. [`ConfirmedMarkers`] remembers those that were there.
///
/// It is the outermost decorator of a stack, but for one that coalesces the writes of one tenant: the stores below may
/// answer a write without reading it, because the blob exists or because another writer has just written it. This one
/// reads the rest and checks it before the tenant gets the blob. The empty blob is everybody's.
pub struct IsolatedBlobStore {
    inner: Arc<dyn BlobStore>,
    key: PossessionKey,
    confirmed: Arc<ConfirmedMarkers>,
}

impl IsolatedBlobStore {
    /// View of the tenant with this key. `confirmed` belongs to `inner`, and may be shared by all its tenants.
    pub fn new(inner: Arc<dyn BlobStore>, key: PossessionKey, confirmed: Arc<ConfirmedMarkers>) -> Self {
        Self {
            inner,
            key,
            confirmed,
        }
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

    /// Reads markers that are not confirmed yet. For each of `digests`: true if the tenant has the blob.
    async fn possessed(&self, digests: &[Digest], markers: &[Digest]) -> Vec<Result<bool, Error>> {
        let is_known =
            |(digest, marker): (&Digest, &Digest)| digest.is_empty_blob() || self.confirmed.contains(*marker);
        let known: Vec<bool> = digests.iter().zip(markers).map(is_known).collect();
        let unknown = markers.iter().zip(&known).filter(|(_, is_known)| !**is_known);
        let unknown: Vec<Digest> = unknown.map(|(marker, _)| *marker).collect();
        let mut read = if unknown.is_empty() {
            Vec::new()
        } else {
            self.inner.read_batch(&unknown).await
        }
        .into_iter();
        let answers = digests.iter().zip(markers).zip(known);
        answers
            .map(|((digest, marker), is_known)| {
                if is_known {
                    return Ok(true);
                }
                let tag = read.next().unwrap_or(Err(Error::NotFound(*marker)));
                self.confirm(*digest, *marker, tag)
            })
            .collect()
    }

    /// Compares a marker that was read. True if it is that of the blob.
    fn confirm(&self, digest: Digest, marker: Digest, read: Result<Bytes, Error>) -> Result<bool, Error> {
        match read {
            Ok(tag) if tag == self.key.tag(digest)[..] => {
                self.confirmed.insert(marker);
                Ok(true)
            }
            // Other bytes prove nothing.
            Ok(_) | Err(Error::NotFound(_) | Error::DigestMismatch { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Checks that the tenant has a blob.
    async fn check(&self, digest: Digest) -> Result<(), Error> {
        let marker = self.key.marker_digest(digest);
        if digest.is_empty_blob() || self.confirmed.contains(marker) {
            return Ok(());
        }
        let read = read_whole(&*self.inner, marker).await;
        if self.confirm(digest, marker, read)? {
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
        // The markers first: whoever lacks a blob does not extend its lifetime for others. Those that are confirmed too:
        // their lifetime is extended.
        let markers = self.markers(&wanted).await;
        let lost: HashSet<Digest> = self.inner.find_missing(&markers).await?.into_iter().collect();
        let is_lost = |(_, marker): &(Digest, Digest)| lost.contains(marker);
        let (others, claimed): (Vec<_>, Vec<_>) = wanted.into_iter().zip(markers).partition(is_lost);
        let mut missing: Vec<Digest> = others.into_iter().map(|(digest, _)| digest).collect();
        let (claimed, markers): (Vec<Digest>, Vec<Digest>) = claimed.into_iter().unzip();
        let mut own = Vec::with_capacity(claimed.len());
        for (digest, is_own) in claimed.iter().zip(self.possessed(&claimed, &markers).await) {
            if is_own? {
                own.push(*digest);
            } else {
                missing.push(*digest);
            }
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
        // The inner store left bytes unread if it has the blob. No lease keeps it there: a writer without the blob could
        // hold it by sending slowly. So it is searched when the proof is there. Another attempt will write it.
        if proof.complete().await? && !self.inner.find_missing(&[digest]).await?.is_empty() {
            return Err(Error::Abandoned(digest));
        }
        let marker = self.key.marker(digest);
        let marker_digest = marker.0;
        let written: Result<(), Error> = self.inner.write_batch(vec![marker]).await.into_iter().collect();
        written?;
        self.confirmed.insert(marker_digest);
        Ok(())
    }

    /// Leases the blobs that the tenant has, and their markers. Nobody keeps a blob of others in the store.
    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        let markers = self.markers(digests).await;
        let mut leased = Vec::with_capacity(2 * digests.len());
        let possessed = self.possessed(digests, &markers).await;
        for ((digest, marker), is_own) in digests.iter().zip(markers).zip(possessed) {
            if is_own? {
                leased.extend([*digest, marker]);
            }
        }
        self.inner.lease(&leased).await
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        let resolved = self.inner.resolve(function, hash).await?;
        // A marker is searched if the blob is absent too, so that the answer takes the time of that for another's blob.
        let asked = resolved.unwrap_or_else(|| Digest::new(function, hash, 1));
        match self.check(asked).await {
            Ok(()) => Ok(resolved),
            Err(Error::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let markers = self.markers(digests).await;
        let possessed = self.possessed(digests, &markers).await;
        let own = digests.iter().zip(&possessed);
        let own: Vec<Digest> = own
            .filter(|(_, is_own)| matches!(is_own, Ok(true)))
            .map(|(digest, _)| *digest)
            .collect();
        let mut blobs = if own.is_empty() {
            Vec::new()
        } else {
            self.inner.read_batch(&own).await
        }
        .into_iter();
        let answers = digests.iter().zip(possessed);
        answers
            .map(|(digest, is_own)| match is_own {
                Ok(true) => blobs.next().unwrap_or(Err(Error::NotFound(*digest))),
                Ok(false) => Err(Error::NotFound(*digest)),
                Err(error) => Err(error),
            })
            .collect()
    }

    /// Hashes all blobs, because the inner store need not read those that it has.
    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let key = self.key.clone();
        let (mut answers, batch, count, marker_digests) = run_blocking(move || {
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
            let marker_digests: Vec<Digest> = markers.iter().map(|(digest, _)| *digest).collect();
            batch.extend(markers);
            (answers, batch, count, marker_digests)
        })
        .await;
        // The bytes are proven already, so a marker may be written whatever becomes of its blob.
        let mut blobs = self.inner.write_batch(batch).await;
        let markers = blobs.split_off(count.min(blobs.len()));
        for (marker, written) in marker_digests.into_iter().zip(&markers) {
            if written.is_ok() {
                self.confirmed.insert(marker);
            }
        }
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
