use proptest::prelude::*;

use super::*;
use crate::blob_store::{one_chunk, read_whole};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::model;
use crate::testing::sha256;

const MINUTE: Duration = Duration::from_mins(1);

fn store(max_entries: usize) -> (Arc<MemoryBlobStore>, ExistenceCachingBlobStore) {
    let inner = Arc::new(MemoryBlobStore::default());
    let options = ExistenceCachingOptions {
        max_entries: NonZeroUsize::new(max_entries).unwrap(),
        max_age: MINUTE,
    };
    let store = ExistenceCachingBlobStore::new(Arc::clone(&inner) as Arc<dyn BlobStore>, options);
    (inner, store)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let open = async |open: Option<ExistenceCachingBlobStore>| open.unwrap_or_else(|| store(4).1);
        runtime.block_on(model::run(steps, open));
    }
}

#[tokio::test(start_paused = true)]
async fn a_stale_answer_expires_even_when_it_is_repeated() {
    let (inner, store) = store(10);
    let digest = sha256(b"blob");
    inner.write(digest, one_chunk("blob".into())).await.unwrap();
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), []);
    inner.remove(digest);
    tokio::time::advance(MINUTE * 3 / 4).await;
    assert_eq!(
        store.find_missing(&[digest]).await.unwrap(),
        [],
        "a stale answer, as documented"
    );
    tokio::time::advance(MINUTE / 4).await;
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), [digest]);
}

#[tokio::test(start_paused = true)]
async fn an_absent_blob_is_asked_for_again_at_once() {
    let (inner, store) = store(10);
    let digest = sha256(b"blob");
    assert_eq!(store.find_missing(&[digest, digest]).await.unwrap(), [digest]);
    inner.write(digest, one_chunk("blob".into())).await.unwrap();
    assert_eq!(store.find_missing(&[digest]).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_misses_removes_the_stale_answer() {
    let (inner, store) = store(10);
    let digests = [sha256(b"one"), sha256(b"two")];
    let blobs = vec![(digests[0], "one".into()), (digests[1], "two".into())];
    assert!(store.write_batch(blobs).await.iter().all(Result::is_ok));
    for digest in digests {
        inner.remove(digest);
    }
    assert_eq!(store.find_missing(&digests).await.unwrap(), []);
    assert!(read_whole(&store, digests[0]).await.is_err());
    assert!(store.read_batch(&digests[1..]).await.remove(0).is_err());
    assert_eq!(store.find_missing(&digests).await.unwrap(), digests);
}

#[tokio::test(start_paused = true)]
async fn at_most_max_entries_are_remembered() {
    let (inner, store) = store(1);
    let digests = [sha256(b"one"), sha256(b"two")];
    let blobs = vec![(digests[0], "one".into()), (digests[1], "two".into())];
    assert!(store.write_batch(blobs).await.iter().all(Result::is_ok));
    for digest in digests {
        inner.remove(digest);
    }
    assert_eq!(store.find_missing(&digests).await.unwrap(), [digests[0]]);
    assert_eq!(store.known.lock().since.len(), 1);
}
