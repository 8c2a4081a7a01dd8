//! Source of an upload that keeps the last bytes, so that they can be sent again.

use std::collections::VecDeque;
use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use crate::blob_store::BlobStream;
use crate::error::Error;

/// Largest size of a chunk: large enough to cost little, small enough for the messages of every server.
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes that are kept after they were sent. Bytes that a server has not committed when the connection breaks were in
/// windows and buffers, which hold less than this. With larger windows the upload starts again or fails.
const RESEND_WINDOW_BYTES: u64 = 16 << 20;

/// Blob that is uploaded: a stream that is read once, and the last bytes that were read.
pub(super) struct UploadSource {
    digest: Digest,
    /// Locked during a read: the request of a broken connection may still exist beside its successor.
    window: AsyncMutex<Window>,
    /// Error of the blob's stream.
    failure: Mutex<Option<Error>>,
}

struct Window {
    blob: BlobStream,
    kept: VecDeque<Bytes>,
    /// Offset of the first kept byte.
    start: u64,
    /// Offset of the first byte that was not read yet.
    end: u64,
}

impl UploadSource {
    pub(super) fn new(digest: Digest, blob: BlobStream) -> Arc<Self> {
        Arc::new(Self {
            digest,
            window: AsyncMutex::new(Window {
                blob,
                kept: VecDeque::new(),
                start: 0,
                end: 0,
            }),
            failure: Mutex::new(None),
        })
    }

    /// Takes the error of the stream, if it ended with one.
    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failure.lock().take()
    }

    /// True if the blob can be sent from `offset` on.
    pub(super) async fn covers(&self, offset: u64) -> bool {
        let window = self.window.lock().await;
        (window.start..=window.end).contains(&offset)
    }

    /// Streams the blob from `offset` on. If the source fails, [`UploadSource::take_failure`] has the error.
    pub(super) fn from(
        self: Arc<Self>,
        offset: u64,
    ) -> impl Stream<Item = Result<Bytes, Error>> + Send + 'static {
        futures::stream::try_unfold((self, offset), |(source, offset)| async move {
            let chunk = source.window.lock().await.at(offset).await;
            let chunk = chunk.map_err(|error| {
                *source.failure.lock() = Some(error);
                Error::Abandoned(source.digest)
            })?;
            Ok(chunk.map(|chunk| {
                let next = offset + chunk.len() as u64;
                (chunk, (source, next))
            }))
        })
    }
}

impl Window {
    /// Chunk at `offset`, `None` at the end.
    async fn at(&mut self, offset: u64) -> Result<Option<Bytes>, Error> {
        while offset >= self.end {
            let Some(chunk) = self.blob.next().await.transpose()? else {
                return Ok(None);
            };
            if !chunk.is_empty() {
                self.keep(chunk);
            }
        }
        let mut start = self.start;
        for chunk in &self.kept {
            let within = offset
                .checked_sub(start)
                .and_then(|within| usize::try_from(within).ok());
            if let Some(within) = within.filter(|within| *within < chunk.len()) {
                return Ok(Some(chunk.slice(within..chunk.len().min(within + CHUNK_BYTES))));
            }
            start += chunk.len() as u64;
        }
        Ok(None)
    }

    fn keep(&mut self, chunk: Bytes) {
        self.end += chunk.len() as u64;
        self.kept.push_back(chunk);
        while let Some(first) = self.kept.front() {
            let size = first.len() as u64;
            // The last chunk is about to be sent.
            if self.kept.len() == 1 || self.end - self.start - size < RESEND_WINDOW_BYTES {
                break;
            }
            self.start += size;
            self.kept.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt;

    use super::*;
    use crate::testing::{noise, sha256};

    fn source(blob: &Bytes, chunk: usize) -> Arc<UploadSource> {
        let chunks: Vec<Result<Bytes, Error>> = blob
            .chunks(chunk)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        UploadSource::new(sha256(b"x"), futures::stream::iter(chunks).boxed())
    }

    #[tokio::test]
    async fn only_the_end_can_be_read_again() {
        let blob = Bytes::from(noise(1, 20 << 20));
        let source = source(&blob, 700_000);
        let all: Vec<Bytes> = Arc::clone(&source).from(0).try_collect().await.unwrap();
        assert!(all.concat() == blob && all.iter().all(|chunk| chunk.len() <= CHUNK_BYTES));
        let offset = (4 << 20) + 12_345;
        assert!(source.covers(offset as u64).await && source.covers(20 << 20).await);
        assert!(!source.covers(0).await && !source.covers((20 << 20) + 1).await);
        let again: Vec<Bytes> = Arc::clone(&source)
            .from(offset as u64)
            .try_collect()
            .await
            .unwrap();
        assert!(again.concat() == blob[offset..]);
    }

    #[tokio::test]
    async fn second_reader_gets_the_bytes_of_the_first() {
        let blob = Bytes::from(noise(1, 10_000));
        let source = source(&blob, 1000);
        let mut first = Box::pin(Arc::clone(&source).from(0));
        first.next().await.unwrap().unwrap();
        first.next().await.unwrap().unwrap();
        drop(first);
        let rest: Vec<Bytes> = Arc::clone(&source).from(1000).try_collect().await.unwrap();
        assert!(rest.concat() == blob[1000..]);
    }

    #[tokio::test]
    async fn failure_ends_the_stream_and_is_kept() {
        let chunks = vec![Ok("a".into()), Err(Error::InvalidArgument("torn".into()))];
        let source = UploadSource::new(sha256(b"x"), futures::stream::iter(chunks).boxed());
        let read: Vec<Result<Bytes, Error>> = Arc::clone(&source).from(0).collect().await;
        assert!(
            matches!(read.as_slice(), [Ok(_), Err(Error::Abandoned(_))]),
            "{read:?}"
        );
        assert!(matches!(source.take_failure(), Some(Error::InvalidArgument(_))));
    }
}
