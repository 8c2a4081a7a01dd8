//! Time limits for the calls to a blob store.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until, timeout};

use crate::blob_store::{BlobRange, BlobStore, BlobStream};
use crate::error::Error;
use crate::forward_blob_store;

/// Limits of a [`DeadlineBlobStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadlineOptions {
    /// Limit of a call without a stream: `find_missing`, a batch, and a read until its stream begins.
    pub call: Duration,
    /// Limit of a stream between two signs of progress. A stream as a whole has no limit: a blob of many gigabytes may
    /// take hours.
    pub progress: Duration,
    /// Bytes that a read must bring within `progress`: a store that sends one byte now and then has failed. The end of
    /// the blob always counts.
    pub progress_bytes: u64,
}

impl Default for DeadlineOptions {
    fn default() -> Self {
        Self {
            call: Duration::from_mins(1),
            progress: Duration::from_mins(1),
            progress_bytes: 64 << 10,
        }
    }
}

/// Ends calls that take too long with [`Error::Deadline`]. Only the time counts in which others wait for the inner
/// store, not the time in which it waits for a slow reader or writer.
pub struct DeadlineBlobStore {
    inner: Arc<dyn BlobStore>,
    options: DeadlineOptions,
}

impl DeadlineBlobStore {
    /// Decorates `inner`.
    pub fn new(inner: Arc<dyn BlobStore>, options: DeadlineOptions) -> Self {
        Self { inner, options }
    }

    /// Waits for a batch, of which every blob fails when it takes too long.
    async fn batch<T>(
        &self,
        what: &str,
        blobs: usize,
        call: impl Future<Output = Vec<Result<T, Error>>>,
    ) -> Vec<Result<T, Error>> {
        let limit = self.options.call;
        let late = || late(format!("{what} of {blobs} blobs"), limit);
        match timeout(limit, call).await {
            Ok(results) => results,
            Err(_) => (0..blobs).map(|_| Err(late())).collect(),
        }
    }
}

/// The error of a call that exceeded `limit`.
pub(crate) fn late(context: impl Into<String>, limit: Duration) -> Error {
    Error::Deadline {
        context: context.into(),
        limit,
    }
}

/// Ends a stream that does not bring `options.progress_bytes` in `options.progress` of waiting for it.
fn with_progress_limit(digest: Digest, stream: BlobStream, options: DeadlineOptions) -> BlobStream {
    let state = (stream, Duration::ZERO, 0_u64);
    futures::stream::try_unfold(state, move |(mut stream, mut waited, mut bytes)| async move {
        let asked = Instant::now();
        let left = options.progress.saturating_sub(waited);
        let Ok(chunk) = timeout(left, stream.next()).await else {
            let context = format!("the store stopped in the middle of blob {digest}");
            return Err(late(context, options.progress));
        };
        let Some(chunk) = chunk.transpose()? else {
            return Ok(None);
        };
        waited += asked.elapsed();
        bytes += chunk.len() as u64;
        if bytes >= options.progress_bytes {
            (waited, bytes) = (Duration::ZERO, 0);
        }
        Ok(Some((chunk, (stream, waited, bytes))))
    })
    .boxed()
}

/// Time since which a write waits for its store; `None` while the store waits for the source. Shared because some
/// stores move the source to another task.
type WaitingSince = Arc<Mutex<Option<Instant>>>;

/// Records which of the two waits while a source is read.
fn watched(mut source: BlobStream, waiting_since: WaitingSince) -> BlobStream {
    futures::stream::poll_fn(move |context| {
        let polled = source.poll_next_unpin(context);
        *waiting_since.lock() = polled.is_ready().then(Instant::now);
        polled
    })
    .boxed()
}

#[async_trait]
impl BlobStore for DeadlineBlobStore {
    forward_blob_store!(inner: lease);

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let limit = self.options.call;
        let missing = timeout(limit, self.inner.find_missing(digests)).await;
        missing.unwrap_or_else(|_| {
            Err(late(
                format!("asking which of {} blobs are missing", digests.len()),
                limit,
            ))
        })
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let limit = self.options.call;
        let stream = timeout(limit, self.inner.read(digest, range)).await;
        let stream = stream.map_err(|_| late(format!("reading blob {digest}"), limit))??;
        Ok(with_progress_limit(digest, stream, self.options))
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let limit = self.options.progress;
        let waiting_since: WaitingSince = Arc::new(Mutex::new(Some(Instant::now())));
        let source = watched(blob, Arc::clone(&waiting_since));
        let mut write = self.inner.write(digest, source).fuse();
        loop {
            let now = Instant::now();
            let due = waiting_since.lock().unwrap_or(now) + limit;
            if due <= now {
                return Err(late(format!("the store stopped taking blob {digest}"), limit));
            }
            tokio::select! {
                written = &mut write => return written,
                () = sleep_until(due) => {}
            }
        }
    }

    async fn resolve(&self, function: DigestFunction, hash: [u8; 32]) -> Result<Option<Digest>, Error> {
        let limit = self.options.call;
        let found = timeout(limit, self.inner.resolve(function, hash)).await;
        found.unwrap_or_else(|_| Err(late("looking a blob up by its hash", limit)))
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.batch("reading a batch", digests.len(), self.inner.read_batch(digests))
            .await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        self.batch("writing a batch", blobs.len(), self.inner.write_batch(blobs))
            .await
    }
}

#[cfg(test)]
mod tests;
