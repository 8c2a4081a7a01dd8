//! Streams that continue where their source broke.

use std::sync::Arc;

use backon::BackoffBuilder;
use bitzel_proto::with_causes;
use futures::StreamExt;
use futures::future::BoxFuture;
use tracing::debug;

use crate::blob_store::BlobStream;
use crate::error::{BackEndFailure, Error};
use crate::retry::pauses;

/// Function that opens a part of a blob, given its offset and length.
pub(crate) type OpenPart =
    Arc<dyn Fn(u64, u64) -> BoxFuture<'static, Result<BlobStream, Error>> + Send + Sync>;

struct Resumed {
    source: BlobStream,
    offset: u64,
    left: u64,
    open: OpenPart,
    pauses: <backon::ExponentialBuilder as BackoffBuilder>::Backoff,
}

/// Streams exactly `length` bytes from `source`, which was opened at `offset`. If it breaks or ends too early, `open`
/// opens the rest, as often as [`pauses`] allows in all: a source that yields one byte for each attempt ends, too. More
/// bytes than requested are an error.
pub(crate) fn resumed(source: BlobStream, offset: u64, length: u64, open: OpenPart) -> BlobStream {
    let state = Resumed {
        source,
        offset,
        left: length,
        open,
        pauses: pauses().build(),
    };
    futures::stream::try_unfold(state, |mut state| async move {
        if state.left == 0 {
            return Ok(None);
        }
        loop {
            let error = match state.source.next().await {
                Some(Ok(chunk)) => {
                    let size = chunk.len() as u64;
                    if size > state.left {
                        let context = format_args!("the store sends more than the {} bytes left", state.left);
                        return Err(Error::back_end(context, BackEndFailure::Faulty)("too many bytes"));
                    }
                    state.offset += size;
                    state.left -= size;
                    return Ok(Some((chunk, state)));
                }
                Some(Err(error)) => error,
                None => {
                    let context = format_args!("the store ended a blob {} bytes too early", state.left);
                    Error::back_end(context, BackEndFailure::Unavailable)("too few bytes")
                }
            };
            state.reopen(error).await?;
        }
    })
    .boxed()
}

impl Resumed {
    /// Opens the rest after `error`, or fails with the last error.
    async fn reopen(&mut self, mut error: Error) -> Result<(), Error> {
        loop {
            if !error.is_transient() {
                return Err(error);
            }
            let Some(pause) = self.pauses.next() else {
                return Err(error);
            };
            let reason = with_causes(&error);
            debug!(
                offset = self.offset,
                reason, "a blob's stream broke and continues at this offset"
            );
            tokio::time::sleep(pause).await;
            match (self.open)(self.offset, self.left).await {
                Ok(source) => {
                    self.source = source;
                    return Ok(());
                }
                Err(again) => error = again,
            }
        }
    }
}

/// Skips `skip` bytes and ends after `length` more, for servers that send more than was requested.
pub(crate) fn cut(body: BlobStream, skip: u64, length: u64) -> BlobStream {
    let state = (body, skip, length);
    futures::stream::try_unfold(state, |(mut body, mut skip, mut left)| async move {
        while left > 0 {
            let Some(mut chunk) = body.next().await.transpose()? else {
                return Ok(None);
            };
            let skipped = skip.min(chunk.len() as u64);
            skip -= skipped;
            let chunk = chunk.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
            let chunk =
                chunk.slice(..usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len())));
            left -= chunk.len() as u64;
            if !chunk.is_empty() {
                return Ok(Some((chunk, (body, skip, left))));
            }
        }
        Ok(None)
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::blob_store::collect;
    use crate::testing::failing_blob_store::down;
    use crate::testing::noise;

    /// Makes a function that opens parts of `blob`. They break after `each` bytes, by an error or by an early end.
    fn open(blob: &Bytes, each: usize, quietly: bool) -> OpenPart {
        let blob = blob.clone();
        Arc::new(move |offset, length| {
            let start = usize::try_from(offset).unwrap();
            let part = blob.slice(start..start + usize::try_from(length).unwrap());
            let mut chunks = vec![Ok(part.slice(..each.min(part.len())))];
            if each < part.len() && !quietly {
                chunks.push(Err(down()));
            }
            Box::pin(async move { Ok(futures::stream::iter(chunks).boxed()) })
        })
    }

    async fn read(open: OpenPart, offset: u64, length: u64) -> Result<Bytes, Error> {
        let source = open(offset, length).await.unwrap();
        collect(resumed(source, offset, length, open)).await
    }

    #[tokio::test(start_paused = true)]
    async fn reader_gets_all_bytes_despite_breaks() {
        let blob = Bytes::from(noise(1, 1000));
        for quietly in [false, true] {
            let read = read(open(&blob, 300, quietly), 100, 900).await;
            assert!(read.unwrap() == blob[100..]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_byte_for_each_attempt_ends_in_an_error() {
        let blob = Bytes::from(noise(1, 1000));
        for quietly in [false, true] {
            let read = read(open(&blob, 1, quietly), 0, 1000).await;
            assert!(matches!(read, Err(Error::BackEnd { .. })), "{read:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_bytes_are_an_error() {
        let blob = Bytes::from(noise(1, 1000));
        let source = open(&blob, 1000, false)(0, 1000).await.unwrap();
        let read = collect(resumed(source, 0, 999, open(&blob, 1000, false))).await;
        assert!(
            matches!(
                read,
                Err(Error::BackEnd {
                    failure: BackEndFailure::Faulty,
                    ..
                })
            ),
            "{read:?}"
        );
    }
}
