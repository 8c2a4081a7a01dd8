//! Limit of the chunks that a consumer has space for.
//!
//! A stream of a blob reads as much as is fast: 1 MiB, and the next chunk ahead. Thousands of clients that do not read
//! would fill the memory with that. So a consumer that is short of memory says what it has space for while it opens and
//! polls a stream, and the stores that read from disks obey. Decorators need not pass it on.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;

use super::BlobStream;
use crate::error::Error;

tokio::task_local! {
    static CHUNK_LIMIT: Option<u64>;
}

/// Runs the opening of a stream for a consumer with space for `limit` bytes; `None` if that is no question.
pub async fn open_within<F: Future>(limit: Option<u64>, open: F) -> F::Output {
    match limit {
        Some(_) => CHUNK_LIMIT.scope(limit, open).await,
        None => open.await,
    }
}

/// Streams a blob to a consumer whose space `limit` tells before each chunk.
pub fn stream_within<L>(limit: L, blob: BlobStream) -> BlobStream
where
    L: Fn() -> Option<u64> + Send + Unpin + 'static,
{
    Box::pin(StreamWithin { limit, blob })
}

/// Limit of the consumer that runs this.
pub(crate) fn chunk_limit() -> Option<u64> {
    CHUNK_LIMIT.try_with(|limit| *limit).ok().flatten()
}

struct StreamWithin<L> {
    limit: L,
    blob: BlobStream,
}

impl<L: Fn() -> Option<u64> + Unpin> Stream for StreamWithin<L> {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let limit = (self.limit)();
        CHUNK_LIMIT.sync_scope(limit, || self.blob.as_mut().poll_next(context))
    }
}
