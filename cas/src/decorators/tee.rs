//! Duplication of the stream of a blob for two consumers, without holding the blob in memory.

use std::sync::Arc;

use bitzel_proto::Digest;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::blob_store::{BlobStore, BlobStream};
use crate::error::Error;

/// Chunks by which one consumer may be ahead of the other.
const MAX_CHUNKS_AHEAD: usize = 4;

/// Message to a consumer. The end is explicit, so that a source that was dropped in the middle is not taken for it.
enum Part {
    Chunk(Bytes),
    End,
}

fn branch(digest: Digest) -> (mpsc::Sender<Part>, BlobStream) {
    let (sender, receiver) = mpsc::channel(MAX_CHUNKS_AHEAD);
    let parts = futures::stream::try_unfold(Some(receiver), move |receiver| async move {
        let Some(mut receiver) = receiver else {
            return Ok(None);
        };
        match receiver.recv().await {
            Some(Part::Chunk(chunk)) => Ok(Some((chunk, Some(receiver)))),
            Some(Part::End) => Ok(None),
            None => Err(Error::Abandoned(digest)),
        }
    });
    (sender, parts.boxed())
}

/// Writes `source` to two consumers at once, at the pace of the slower one; one that has ended or failed does not slow
/// down the other. `Err` is the failure of the source itself, after which both consumers have seen
/// [`Error::Abandoned`].
pub(crate) async fn write_both<One, Other>(
    digest: Digest,
    mut source: BlobStream,
    one: impl FnOnce(BlobStream) -> One,
    other: impl FnOnce(BlobStream) -> Other,
) -> Result<(One::Output, Other::Output), Error>
where
    One: Future,
    Other: Future,
{
    let (to_one, stream_of_one) = branch(digest);
    let (to_other, stream_of_other) = branch(digest);
    let pump = async move {
        loop {
            let part = tokio::select! {
                chunk = source.next() => match chunk.transpose()? {
                    Some(chunk) => Part::Chunk(chunk),
                    None => Part::End,
                },
                // A blob that both stores have already must not wait for its source.
                _ = async { tokio::join!(to_one.closed(), to_other.closed()) } => return Ok::<_, Error>(()),
            };
            let chunk = match part {
                Part::Chunk(chunk) => chunk,
                Part::End => {
                    let _closed = to_one.send(Part::End).await;
                    let _closed = to_other.send(Part::End).await;
                    return Ok(());
                }
            };
            let _closed = to_one.send(Part::Chunk(chunk.clone())).await;
            let _closed = to_other.send(Part::Chunk(chunk)).await;
        }
    };
    let (pumped, one, other) = tokio::join!(pump, one(stream_of_one), other(stream_of_other));
    pumped?;
    Ok((one, other))
}

/// Passes `source` on and writes it to `target` as it passes. The write ends before the last bytes are passed on, so
/// that a reader of the whole blob finds it in `target`; `done` gets its result. Its failure is never a failure of the
/// read. A reader that stops in the middle ends the write too.
pub(crate) fn copied(
    digest: Digest,
    source: BlobStream,
    target: Arc<dyn BlobStore>,
    done: impl FnOnce(Result<(), Error>) + Send + 'static,
) -> BlobStream {
    let (sender, copy) = branch(digest);
    let write = tokio::spawn(async move { done(target.write(digest, copy).await) });
    let copying = Some((sender, AbortOnDropHandle::new(write)));
    let state = (source, copying, 0_u64);
    futures::stream::try_unfold(state, move |(mut source, mut copying, mut size)| async move {
        let chunk = source.next().await.transpose()?;
        size += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if let Some((sender, _)) = &copying
            && let Some(chunk) = &chunk
        {
            let _closed = sender.send(Part::Chunk(chunk.clone())).await;
        }
        if (chunk.is_none() || size >= digest.size_bytes())
            && let Some((sender, write)) = copying.take()
        {
            let _closed = sender.send(Part::End).await;
            let _panicked = write.await;
        }
        Ok(chunk.map(|chunk| (chunk, (source, copying, size))))
    })
    .boxed()
}

#[cfg(test)]
mod tests;
