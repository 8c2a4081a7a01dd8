//! Fast blob store in front of a slow one.

mod journal;
mod queue;
mod write_back;

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use tracing::{debug, warn};

use crate::blob_store::verification::is_whole;
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::decorators::tee::{copied, write_both};
use crate::error::Error;
use bitzel_proto::with_causes;

pub use write_back::{WriteBackOptions, WriteBackStatus};

use write_back::WriteBack;

/// Stores the blobs of a slow store in a fast one as they are read and written.
///
/// - **Reads** are served from the fast store. A blob that it lacks is read from the slow one and fills the fast one as
///   it passes; it is stored there before its reader has the last bytes. Reads of a part of a blob fill nothing.
/// - **Writes** go to both and are acknowledged when the slow store has them (write-through), or when the fast store
///   has them and they are in a queue on disk for the slow one (write-back).
/// - **`find_missing`** asks the slow store and the queue of writes to it. A blob that only the fast store still has is
///   missing: others that use the slow store lack it, and the fast one may evict it at any time.
///
/// A failure of the fast store costs speed and is logged, but fails no call, except that with write-back it has to
/// accept the writes.
pub struct TieredBlobStore {
    fast: Arc<dyn BlobStore>,
    slow: Arc<dyn BlobStore>,
    write_back: Option<WriteBack>,
}

impl TieredBlobStore {
    /// A store that acknowledges writes when the slow store has them.
    pub fn write_through(fast: Arc<dyn BlobStore>, slow: Arc<dyn BlobStore>) -> Self {
        Self {
            fast,
            slow,
            write_back: None,
        }
    }

    /// A store that acknowledges writes when the fast store has them and the queue on disk names them. Continues with the
    /// blobs that were queued when the process last ended, in whatever way.
    pub async fn write_back(
        fast: Arc<dyn BlobStore>,
        slow: Arc<dyn BlobStore>,
        options: WriteBackOptions,
    ) -> Result<Self, Error> {
        let write_back = WriteBack::open(Arc::clone(&fast), Arc::clone(&slow), options).await?;
        Ok(Self {
            fast,
            slow,
            write_back: Some(write_back),
        })
    }

    /// Counts of the write-back queue. All zero with write-through.
    pub fn write_back_status(&self) -> WriteBackStatus {
        self.write_back
            .as_ref()
            .map(WriteBack::status)
            .unwrap_or_default()
    }

    /// Waits until no blob is left to write to the slow store.
    pub async fn settled(&self) {
        if let Some(write_back) = &self.write_back {
            write_back.settled().await;
        }
    }

    /// The write-back queue, if writes of this blob go through it.
    fn queue(&self, digest: Digest) -> Option<&WriteBack> {
        self.write_back
            .as_ref()
            .filter(|write_back| write_back.accepts(digest))
    }

    async fn write_through_one(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let write_fast = |stream| self.fast.write(digest, stream);
        let write_slow = |stream| self.slow.write(digest, stream);
        let (fast, slow) = write_both(digest, blob, write_fast, write_slow).await?;
        acknowledged(digest, fast, slow)
    }

    async fn write_through_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let (fast, slow) = tokio::join!(self.fast.write_batch(blobs.clone()), self.slow.write_batch(blobs));
        let results = digests.into_iter().zip(fast.into_iter().zip(slow));
        results
            .map(|(digest, (fast, slow))| acknowledged(digest, fast, slow))
            .collect()
    }
}

/// Combines the results of a write to both stores.
fn acknowledged(digest: Digest, fast: Result<(), Error>, slow: Result<(), Error>) -> Result<(), Error> {
    match fast {
        // The slow store may have had the blob already, and not have checked these bytes.
        Err(error @ Error::DigestMismatch { .. }) => Err(error),
        fast => {
            record_fill(digest, &fast);
            slow
        }
    }
}

/// Counts and logs a fill of the fast store.
fn record_fill(digest: Digest, filled: &Result<(), Error>) {
    match filled {
        Ok(()) => metrics::counter!("bitzel_tiered_fills_total", "outcome" => "ok").increment(1),
        Err(error) => {
            metrics::counter!("bitzel_tiered_fills_total", "outcome" => "error").increment(1);
            let error = with_causes(error);
            match filled {
                Err(Error::Abandoned(_)) => debug!(%digest, error, "a blob was not read to its end"),
                _ => warn!(%digest, error, "the fast store did not take a blob"),
            }
        }
    }
}

/// True if the slow store may have the blob although the fast one failed with `error`.
fn falls_back(digest: Digest, error: &Error) -> bool {
    if matches!(error, Error::NotFound(_)) {
        return true;
    }
    if error.is_about_the_request() && !matches!(error, Error::DigestMismatch { .. }) {
        return false;
    }
    let error = with_causes(error);
    warn!(%digest, error, "the fast store failed to read a blob");
    true
}

#[async_trait]
impl BlobStore for TieredBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let Some(write_back) = &self.write_back else {
            return self.slow.find_missing(digests).await;
        };
        // Before the slow store is asked: a blob that is written to it meanwhile is then in one of the two answers.
        let waiting = write_back.waiting(digests);
        let missing = self.slow.find_missing(digests).await?;
        let (in_fast, missing): (Vec<Digest>, Vec<Digest>) =
            missing.into_iter().partition(|digest| waiting.contains(digest));
        if in_fast.is_empty() {
            return Ok(missing);
        }
        let gone = self.fast.find_missing(&in_fast).await?;
        Ok([missing, gone].concat())
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        match self.fast.read(digest, range).await {
            Ok(stream) => return Ok(stream),
            Err(error) if falls_back(digest, &error) => {}
            Err(error) => return Err(error),
        }
        let stream = self.slow.read(digest, range).await?;
        if !is_whole(digest, range) {
            return Ok(stream);
        }
        let fast = Arc::clone(&self.fast);
        Ok(copied(digest, stream, fast, move |filled| {
            record_fill(digest, &filled);
        }))
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let Some(write_back) = self.queue(digest) else {
            return self.write_through_one(digest, blob).await;
        };
        let reservation = write_back.reserve([digest]).await;
        self.fast.write(digest, blob).await?;
        write_back.add(reservation).await
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        let (fast, slow) = tokio::try_join!(self.fast.lease(digests), self.slow.lease(digests))?;
        Ok(fast.and(slow))
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        match self.fast.resolve(function, hash).await {
            Ok(Some(digest)) => return Ok(Some(digest)),
            Ok(None) => {}
            Err(error) => {
                let error = with_causes(&error);
                warn!(error, "the fast store failed to look up a blob by its hash");
            }
        }
        self.slow.resolve(function, hash).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        let mut results = self.fast.read_batch(digests).await;
        let (places, again): (Vec<usize>, Vec<Digest>) = results
            .iter()
            .enumerate()
            .filter(|(place, result)| matches!(result, Err(error) if falls_back(digests[*place], error)))
            .map(|(place, _)| (place, digests[place]))
            .unzip();
        if again.is_empty() {
            return results;
        }
        let mut fills = Vec::new();
        let mut seen = HashSet::new();
        for (place, blob) in places.into_iter().zip(self.slow.read_batch(&again).await) {
            if let Ok(blob) = &blob
                && seen.insert(digests[place])
            {
                fills.push((digests[place], blob.clone()));
            }
            results[place] = blob;
        }
        let filled: Vec<Digest> = fills.iter().map(|(digest, _)| *digest).collect();
        for (digest, filled) in filled.into_iter().zip(self.fast.write_batch(fills).await) {
            record_fill(digest, &filled);
        }
        results
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        let Some(write_back) = &self.write_back else {
            return self.write_through_batch(blobs).await;
        };
        let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        if !write_back.accepts_all(&digests) {
            return self.write_through_batch(blobs).await;
        }
        let mut reservation = write_back.reserve(digests.iter().copied()).await;
        let mut results = self.fast.write_batch(blobs).await;
        let written = digests.iter().zip(&results).filter(|(_, result)| result.is_ok());
        reservation.keep(&written.map(|(digest, _)| *digest).collect());
        if let Err(error) = write_back.add(reservation).await {
            let reason = with_causes(&error);
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                *result = Err(Error::io("cannot queue a blob for the slow store")(
                    std::io::Error::other(reason.clone()),
                ));
            }
        }
        results
    }
}

#[cfg(test)]
mod tests;
