use bytes::Bytes;
use futures::{StreamExt, poll};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::blob_store::{one_chunk, read_whole};
use crate::decorators::counting_blob_store::CountingBlobStore;
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::{noise, sha256};

fn store() -> Arc<CoalescingBlobStore> {
    Arc::new(CoalescingBlobStore::new(Arc::new(MemoryBlobStore::default())))
}

/// A stream that fails the test when it is polled.
fn untouchable() -> BlobStream {
    futures::stream::poll_fn(|_| panic!("the second writer's bytes are not needed")).boxed()
}

#[tokio::test]
async fn the_second_writer_waits_for_the_first_and_sends_nothing() {
    let store = store();
    let blob = noise(1, 10_000);
    let digest = sha256(&blob);
    let (sender, receiver) = mpsc::channel(1);
    let first = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let bytes = ReceiverStream::new(receiver).map(Ok).boxed();
            store.write(digest, bytes).await
        })
    };
    sender.send(Bytes::copy_from_slice(&blob[..5000])).await.unwrap();
    // The second place in the channel is free when the first writer has taken the first bytes: it has its turn.
    sender.send(Bytes::new()).await.unwrap();
    let mut second = store.write(digest, untouchable());
    assert!(poll!(&mut second).is_pending(), "it waits for the first one");
    sender.send(Bytes::copy_from_slice(&blob[5000..])).await.unwrap();
    drop(sender);
    first.await.unwrap().unwrap();
    second.await.unwrap();
    assert_eq!(read_whole(&*store, digest).await.unwrap(), blob);
    assert!(store.uploads.0.lock().is_empty(), "nothing is left behind");
}

#[tokio::test]
async fn the_second_writer_writes_if_the_first_one_fails() {
    let store = store();
    let blob = noise(2, 1000);
    let digest = sha256(&blob);
    let (sender, receiver) = mpsc::channel(1);
    let first = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let bytes = ReceiverStream::new(receiver).map(Ok).boxed();
            store.write(digest, bytes).await
        })
    };
    sender.send(Bytes::from_static(b"wrong")).await.unwrap();
    sender.send(Bytes::new()).await.unwrap();
    let second = store.write(digest, one_chunk(blob.clone().into()));
    drop(sender);
    second.await.unwrap();
    assert!(matches!(first.await.unwrap(), Err(Error::DigestMismatch { .. })));
    assert_eq!(read_whole(&*store, digest).await.unwrap(), blob);
}

#[tokio::test(start_paused = true)]
async fn a_stalled_first_writer_does_not_block_the_second() {
    let store = store();
    let blob = noise(3, 1000);
    let digest = sha256(&blob);
    let mut stalled = store.write(digest, futures::stream::pending().boxed());
    assert!(poll!(&mut stalled).is_pending());
    store.write(digest, one_chunk(blob.clone().into())).await.unwrap();
    assert_eq!(read_whole(&*store, digest).await.unwrap(), blob);
    assert!(poll!(&mut stalled).is_pending());
}

#[tokio::test(start_paused = true)]
async fn f21_a_slow_first_writer_does_not_block_the_second() {
    let store = store();
    let blob = noise(4, 1000);
    let digest = sha256(&blob);
    let second = Duration::from_secs(1);
    let trickle = futures::stream::unfold((), move |()| async move {
        tokio::time::sleep(second).await;
        Some((Ok(Bytes::from_static(b"x")), ()))
    });
    let slow = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.write(digest, trickle.boxed()).await })
    };
    tokio::time::sleep(second).await;
    let began = tokio::time::Instant::now();
    store.write(digest, one_chunk(blob.clone().into())).await.unwrap();
    assert!(began.elapsed() <= REVIEW_INTERVAL);
    assert_eq!(read_whole(&*store, digest).await.unwrap(), blob);
    slow.abort();
}

#[tokio::test(start_paused = true)]
async fn waits_for_a_first_writer_that_comes_on() {
    let store = store();
    let blob = noise(5, 24 << 20);
    let digest = sha256(&blob);
    let pieces: Vec<Bytes> = blob.chunks(2 << 20).map(Bytes::copy_from_slice).collect();
    let pieces = futures::stream::iter(pieces).then(|piece| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(piece)
    });
    let mut first = store.write(digest, pieces.boxed());
    assert!(poll!(&mut first).is_pending());
    let (first, second) = tokio::join!(first, store.write(digest, untouchable()));
    first.unwrap();
    second.unwrap();
}

#[tokio::test]
async fn batches_and_look_ups_are_forwarded() {
    let counting = Arc::new(CountingBlobStore::new(Arc::new(MemoryBlobStore::default())));
    let store = CoalescingBlobStore::new(counting);
    let blob = Bytes::from_static(b"small");
    let digest = sha256(&blob);
    let written = store.write_batch(vec![(digest, blob.clone())]).await;
    assert!(written.iter().all(Result::is_ok));
    assert_eq!(store.read_batch(&[digest]).await.remove(0).unwrap(), blob);
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), []);
}
