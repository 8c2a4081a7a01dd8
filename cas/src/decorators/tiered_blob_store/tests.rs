mod killed;

use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::blob_store::{collect, one_chunk, read_whole};
use crate::blocking::run_blocking;
use crate::directory_lock::DirectoryLock;
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::failing_blob_store::{FailingBlobStore, SwitchedBlobStore};
use crate::testing::model;
use crate::testing::{noise, sha256};
use crate::{DiskBlobStore, DiskBlobStoreOptions};

fn memory() -> Arc<MemoryBlobStore> {
    Arc::default()
}

fn through(fast: &Arc<MemoryBlobStore>, slow: Arc<dyn BlobStore>) -> TieredBlobStore {
    TieredBlobStore::write_through(Arc::clone(fast) as Arc<dyn BlobStore>, slow)
}

fn options(directory: &Path) -> WriteBackOptions {
    WriteBackOptions {
        directory: directory.into(),
        max_blobs: 100,
        max_bytes: 1 << 20,
        concurrency: 2,
    }
}

async fn back(
    fast: &Arc<MemoryBlobStore>,
    slow: &Arc<SwitchedBlobStore>,
    options: WriteBackOptions,
) -> TieredBlobStore {
    let (fast, slow) = (Arc::clone(fast) as _, Arc::clone(slow) as _);
    TieredBlobStore::write_back(fast, slow, options).await.unwrap()
}

fn blob(seed: u64) -> (Digest, Bytes) {
    let blob = Bytes::from(noise(seed, 5000));
    (sha256(&blob), blob)
}

/// Waits until the tasks of a dropped store have ended and released the lock of its queue.
async fn wait_for_lock(directory: &Path) {
    let directory = directory.to_owned();
    run_blocking(move || DirectoryLock::wait(&directory).map(drop))
        .await
        .unwrap();
}

async fn has(store: &impl BlobStore, digest: Digest) -> bool {
    store.find_missing(&[digest]).await.unwrap().is_empty()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn write_through_behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let open = async |open: Option<TieredBlobStore>| open.unwrap_or_else(|| through(&memory(), memory()));
        runtime.block_on(model::run(steps, open));
    }

    #[test]
    fn write_back_behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let (fast, slow) = (memory(), SwitchedBlobStore::new(memory()));
        let open = async |open: Option<TieredBlobStore>| {
            // The journal is locked as long as a task holds it.
            if let Some(open) = open {
                open.settled().await;
                return open;
            }
            back(&fast, &slow, options(directory.path())).await
        };
        runtime.block_on(model::run(steps, open));
    }
}

#[tokio::test]
async fn a_read_fills_the_fast_store_on_its_way() {
    let (fast, slow) = (memory(), memory());
    let store = through(&fast, Arc::clone(&slow) as _);
    let ((streamed, bytes), (batched, batched_bytes)) = (blob(1), blob(2));
    slow.write(streamed, one_chunk(bytes.clone())).await.unwrap();
    slow.write(batched, one_chunk(batched_bytes.clone()))
        .await
        .unwrap();
    let part = BlobRange {
        offset: 1,
        limit: Some(3),
    };
    let read = collect(store.read(streamed, part).await.unwrap()).await.unwrap();
    assert!(read == bytes[1..4] && !has(fast.as_ref(), streamed).await);
    assert!(read_whole(&store, streamed).await.unwrap() == bytes);
    let read = store.read_batch(&[batched, batched, streamed]).await;
    let read: Vec<Bytes> = read.into_iter().collect::<Result<_, _>>().unwrap();
    assert_eq!(read, [batched_bytes.clone(), batched_bytes, bytes]);
    assert!(has(fast.as_ref(), streamed).await && has(fast.as_ref(), batched).await);
}

#[tokio::test]
async fn a_read_that_breaks_leaves_nothing_in_the_fast_store() {
    let (fast, slow) = (memory(), memory());
    let (digest, bytes) = blob(1);
    slow.write(digest, one_chunk(bytes)).await.unwrap();
    let slow = SwitchedBlobStore::new(slow);
    slow.break_streams();
    let store = through(&fast, slow);
    assert!(matches!(
        read_whole(&store, digest).await,
        Err(Error::BackEnd { .. })
    ));
    assert!(!has(fast.as_ref(), digest).await);
}

#[tokio::test]
async fn a_fast_store_that_is_down_fails_no_call() {
    let slow = memory();
    let store = TieredBlobStore::write_through(Arc::new(FailingBlobStore), Arc::clone(&slow) as _);
    let ((one, bytes), (two, other)) = (blob(1), blob(2));
    store.write(one, one_chunk(bytes.clone())).await.unwrap();
    store
        .write_batch(vec![(two, other.clone())])
        .await
        .remove(0)
        .unwrap();
    assert!(read_whole(&store, one).await.unwrap() == bytes);
    assert!(store.read_batch(&[two]).await.remove(0).unwrap() == other);
}

#[tokio::test]
async fn a_write_through_is_acknowledged_by_the_slow_store() {
    let fast = memory();
    let store = through(&fast, Arc::new(FailingBlobStore));
    let (digest, bytes) = blob(1);
    assert!(store.write(digest, one_chunk(bytes.clone())).await.is_err());
    assert!(store.write_batch(vec![(digest, bytes)]).await.remove(0).is_err());
}

#[tokio::test]
async fn a_blob_that_only_the_fast_store_has_is_missing() {
    let (fast, slow) = (memory(), memory());
    let store = through(&fast, Arc::clone(&slow) as _);
    let (digest, bytes) = blob(1);
    store.write(digest, one_chunk(bytes.clone())).await.unwrap();
    slow.remove(digest);
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
    // And the upload that follows brings it back, although the fast store needs none.
    store.write(digest, one_chunk(bytes)).await.unwrap();
    assert!(has(slow.as_ref(), digest).await);
}

#[tokio::test(start_paused = true)]
async fn write_back_acknowledges_before_the_slow_store_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let (fast, memory) = (memory(), memory());
    let slow = SwitchedBlobStore::new(Arc::clone(&memory) as _);
    let store = back(&fast, &slow, options(directory.path())).await;
    slow.set_down(true);
    let ((one, bytes), (two, other)) = (blob(1), blob(2));
    store.write(one, one_chunk(bytes)).await.unwrap();
    store.write_batch(vec![(two, other)]).await.remove(0).unwrap();
    assert!(!has(memory.as_ref(), one).await);
    assert_eq!(store.write_back_status().waiting_blobs, 2);
    slow.set_down(false);
    assert!(has(&store, one).await && has(&store, two).await);
    store.settled().await;
    assert!(has(memory.as_ref(), one).await && has(memory.as_ref(), two).await);
    let status = store.write_back_status();
    assert_eq!(
        (status.waiting_blobs, status.waiting_bytes, status.written_blobs),
        (0, 0, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn the_queue_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (fast, memory) = (memory(), memory());
    let slow = SwitchedBlobStore::new(Arc::clone(&memory) as _);
    slow.set_down(true);
    let store = back(&fast, &slow, options(directory.path())).await;
    let (digest, bytes) = blob(1);
    store.write(digest, one_chunk(bytes)).await.unwrap();
    drop(store);
    wait_for_lock(directory.path()).await;
    // Smaller bounds do not lose what was queued under larger ones.
    let smaller = WriteBackOptions {
        max_blobs: 1,
        max_bytes: 4096,
        ..options(directory.path())
    };
    let store = back(&fast, &slow, smaller).await;
    assert_eq!(store.write_back_status().waiting_blobs, 1);
    slow.set_down(false);
    store.settled().await;
    assert!(has(memory.as_ref(), digest).await);
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_the_fast_store_lost_is_counted_and_missing() {
    let directory = tempfile::tempdir().unwrap();
    let (fast, memory) = (memory(), memory());
    let slow = SwitchedBlobStore::new(Arc::clone(&memory) as _);
    slow.set_down(true);
    let store = back(&fast, &slow, options(directory.path())).await;
    let ((lost, bytes), (kept, other)) = (blob(1), blob(2));
    store.write(lost, one_chunk(bytes)).await.unwrap();
    store.write(kept, one_chunk(other)).await.unwrap();
    fast.remove(lost);
    slow.set_down(false);
    assert_eq!(store.find_missing(&[lost, kept]).await.unwrap(), [lost]);
    store.settled().await;
    assert_eq!(store.write_back_status().lost_blobs, 1);
    assert_eq!(store.find_missing(&[lost, kept]).await.unwrap(), [lost]);
    assert!(has(memory.as_ref(), kept).await);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_delays_writes_and_large_blobs_bypass_it() {
    let directory = tempfile::tempdir().unwrap();
    let (fast, memory) = (memory(), memory());
    let slow = SwitchedBlobStore::new(Arc::clone(&memory) as _);
    let store = Arc::new(
        back(
            &fast,
            &slow,
            WriteBackOptions {
                max_blobs: 1,
                ..options(directory.path())
            },
        )
        .await,
    );
    let large = Bytes::from(noise(9, (1 << 20) + 1));
    store
        .write(sha256(&large), one_chunk(large.clone()))
        .await
        .unwrap();
    assert!(has(memory.as_ref(), sha256(&large)).await, "written through");
    slow.set_down(true);
    let ((one, bytes), (two, other)) = (blob(1), blob(2));
    store.write(one, one_chunk(bytes)).await.unwrap();
    let late = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.write(two, one_chunk(other)).await }
    });
    // Time goes on by itself here as long as all wait.
    tokio::time::sleep(std::time::Duration::from_mins(10)).await;
    assert!(!late.is_finished());
    slow.set_down(false);
    late.await.unwrap().unwrap();
    store.settled().await;
    assert!(has(memory.as_ref(), one).await && has(memory.as_ref(), two).await);
}

async fn disk(root: &Path) -> Arc<DiskBlobStore> {
    let options = DiskBlobStoreOptions {
        limit_bytes: 16 << 20,
        free_space_floor_bytes: 0,
        compress: false,
    };
    Arc::new(DiskBlobStore::open(root, options).await.unwrap())
}

#[tokio::test]
async fn what_waits_is_not_evicted_from_a_fast_store_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let fast = disk(&directory.path().join("fast")).await;
    let memory = memory();
    let slow = SwitchedBlobStore::new(Arc::clone(&memory) as _);
    slow.set_down(true);
    let options = WriteBackOptions {
        max_bytes: 4 << 20,
        ..options(&directory.path().join("queue"))
    };
    let store = TieredBlobStore::write_back(Arc::clone(&fast) as _, Arc::clone(&slow) as _, options)
        .await
        .unwrap();
    let large = Bytes::from(noise(1, 3 << 20));
    let (small, bytes) = blob(2);
    store
        .write(sha256(&large), one_chunk(large.clone()))
        .await
        .unwrap();
    store.write_batch(vec![(small, bytes)]).await.remove(0).unwrap();
    for seed in 10..60 {
        let other = Bytes::from(noise(seed, 1 << 20));
        let digest = sha256(&other);
        fast.write(digest, one_chunk(other)).await.unwrap();
    }
    assert!(
        !has(fast.as_ref(), sha256(&noise(10, 1 << 20))).await,
        "later ones were evicted"
    );
    assert!(has(fast.as_ref(), sha256(&large)).await && has(fast.as_ref(), small).await);
    slow.set_down(false);
    store.settled().await;
    assert_eq!(store.write_back_status().lost_blobs, 0);
    assert!(has(memory.as_ref(), sha256(&large)).await && has(memory.as_ref(), small).await);
}

#[tokio::test]
async fn a_hash_is_resolved_in_the_fast_store_first() {
    let (fast, slow) = (memory(), SwitchedBlobStore::new(memory()));
    let store = through(&fast, Arc::clone(&slow) as Arc<dyn BlobStore>);
    let [(in_fast, fast_blob), (in_slow, slow_blob), (nowhere, _)] = [blob(1), blob(2), blob(3)];
    fast.write(in_fast, one_chunk(fast_blob)).await.unwrap();
    slow.write(in_slow, one_chunk(slow_blob)).await.unwrap();
    let resolve = async |digest: Digest| store.resolve(digest.function(), *digest.hash()).await;
    assert_eq!(resolve(in_fast).await.unwrap(), Some(in_fast));
    assert_eq!(resolve(in_slow).await.unwrap(), Some(in_slow));
    assert_eq!(resolve(nowhere).await.unwrap(), None);
    slow.set_down(true);
    assert_eq!(resolve(in_fast).await.unwrap(), Some(in_fast));
    assert!(resolve(nowhere).await.is_err());
}
