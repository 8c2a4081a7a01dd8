use tokio::sync::oneshot;

use super::*;
use crate::blob_store::{collect, one_chunk, read_whole};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::{noise, sha256};

fn stream(blob: &[u8], torn: bool) -> BlobStream {
    let mut chunks: Vec<Result<Bytes, Error>> = blob
        .chunks(1000)
        .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
        .collect();
    if torn {
        chunks.truncate(chunks.len() / 2);
        chunks.push(Err(Error::InvalidArgument("torn".into())));
    }
    futures::stream::iter(chunks).boxed()
}

#[tokio::test]
async fn both_consumers_get_the_whole_blob() {
    let blob = noise(1, 100_000);
    let (one, other) = write_both(sha256(&blob), stream(&blob, false), collect, collect)
        .await
        .unwrap();
    assert!(one.unwrap() == blob && other.unwrap() == blob);
}

#[tokio::test]
async fn a_consumer_that_fails_does_not_stop_the_other() {
    let blob = noise(1, 100_000);
    let refuse = async |stream: BlobStream| drop(stream);
    let ((), other) = write_both(sha256(&blob), stream(&blob, false), refuse, collect)
        .await
        .unwrap();
    assert!(other.unwrap() == blob);
}

#[tokio::test]
async fn a_source_that_fails_is_not_taken_for_its_end() {
    let blob = noise(1, 100_000);
    let mut ends = Vec::new();
    let (seen, mut ends_seen) = tokio::sync::mpsc::unbounded_channel();
    let collect = |seen: tokio::sync::mpsc::UnboundedSender<Result<Bytes, Error>>| {
        async move |stream| {
            let _receiver_lives = seen.send(collect(stream).await);
        }
    };
    let (one, other) = (collect(seen.clone()), collect(seen));
    let error = write_both(sha256(&blob), stream(&blob, true), one, other)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    while let Some(end) = ends_seen.recv().await {
        ends.push(end);
    }
    assert_eq!(ends.len(), 2);
    assert!(
        ends.iter().all(|end| matches!(end, Err(Error::Abandoned(_)))),
        "{ends:?}"
    );
}

#[tokio::test]
async fn a_blob_that_both_refuse_does_not_wait_for_the_source() {
    let refuse = async |stream: BlobStream| drop(stream);
    let endless = futures::stream::pending().boxed();
    write_both(sha256(b"x"), endless, refuse, refuse).await.unwrap();
}

#[tokio::test]
async fn the_copy_is_stored_before_the_last_bytes_are_read() {
    let blob = noise(1, 100_000);
    let digest = sha256(&blob);
    let target = Arc::new(MemoryBlobStore::default());
    let copied = copied(digest, stream(&blob, false), Arc::clone(&target) as _, |done| {
        done.unwrap();
    });
    // A reader that stops at the announced size.
    let chunks: Vec<_> = copied.take(100).collect().await;
    assert_eq!(chunks.len(), 100);
    assert!(read_whole(target.as_ref(), digest).await.unwrap() == blob);
}

#[tokio::test]
async fn a_torn_source_or_a_reader_that_stops_leaves_no_copy() {
    let blob = noise(1, 100_000);
    let digest = sha256(&blob);
    let target = Arc::new(MemoryBlobStore::default());
    for torn in [true, false] {
        // Dropped when the copy is over, one way or the other.
        let (over, copy_is_over) = oneshot::channel::<()>();
        let copied = copied(digest, stream(&blob, torn), Arc::clone(&target) as _, move |_| {
            drop(over);
        });
        let chunks: Vec<_> = copied.take(if torn { 1000 } else { 50 }).collect().await;
        assert_eq!(chunks.iter().any(Result::is_err), torn);
        copy_is_over.await.unwrap_err();
        assert_eq!(target.find_missing(&[digest]).await.unwrap(), [digest]);
    }
}

#[tokio::test]
async fn a_copy_that_is_refused_does_not_fail_the_reader() {
    let blob = noise(1, 100_000);
    // Under a wrong name, so that the target refuses it.
    let digest = Digest::new(bitzel_proto::DigestFunction::Sha256, [7; 32], 100_000);
    let (sender, done) = oneshot::channel();
    let target = Arc::new(MemoryBlobStore::default());
    let copied = copied(digest, stream(&blob, false), target, move |result| {
        sender.send(result).unwrap();
    });
    assert!(collect(copied).await.unwrap() == blob);
    assert!(matches!(done.await.unwrap(), Err(Error::DigestMismatch { .. })));
    drop(one_chunk(Bytes::new()));
}
