use futures::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::blob_store::{one_chunk, read_whole};
use crate::decorators::coalescing_blob_store::CoalescingBlobStore;
use crate::media::disk_blob_store::{DiskBlobStore, DiskBlobStoreOptions};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::failing_blob_store::SwitchedBlobStore;
use crate::testing::{model, noise, sha256};

/// Two tenants of one store.
struct Tenants {
    inner: Arc<MemoryBlobStore>,
    one: IsolatedBlobStore,
    other: IsolatedBlobStore,
}

fn view(inner: &Arc<dyn BlobStore>, tenant: &str) -> IsolatedBlobStore {
    IsolatedBlobStore::new(Arc::clone(inner), PossessionKey::new(b"secret").of_tenant(tenant))
}

impl Tenants {
    fn new() -> Self {
        let inner = Arc::new(MemoryBlobStore::default());
        let store = Arc::clone(&inner) as Arc<dyn BlobStore>;
        Self {
            inner,
            one: view(&store, "one"),
            other: view(&store, "other"),
        }
    }
}

async fn write(store: &impl BlobStore, digest: Digest, blob: &[u8]) -> Result<(), Error> {
    store.write(digest, one_chunk(Bytes::copy_from_slice(blob))).await
}

async fn has(store: &impl BlobStore, digest: Digest) -> bool {
    let found = store.find_missing(&[digest]).await.unwrap().is_empty();
    let read = read_whole(store, digest).await;
    let batch = store.read_batch(&[digest]).await.remove(0);
    let resolved = store.resolve(digest.function(), *digest.hash()).await.unwrap();
    assert_eq!(found, read.is_ok());
    assert_eq!(found, batch.is_ok());
    assert_eq!(found, resolved == Some(digest));
    for result in [read, batch] {
        assert!(found || matches!(result, Err(Error::NotFound(missing)) if missing == digest));
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// In a store that has all blobs of the model from another tenant.
    #[test]
    fn behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let open = async |open: Option<IsolatedBlobStore>| match open {
            Some(store) => store,
            None => {
                let tenants = Tenants::new();
                let blobs = (0..8).map(model::blob).collect();
                let written = tenants.other.write_batch(blobs).await;
                assert!(written.into_iter().all(|result| result.is_ok()));
                tenants.one
            }
        };
        runtime.block_on(model::run(steps, open));
    }
}

#[tokio::test]
async fn f12_a_blob_of_another_tenant_is_not_there() {
    let tenants = Tenants::new();
    let blob = sha256(b"hello");
    write(&tenants.one, blob, b"hello").await.unwrap();
    assert!(has(&tenants.one, blob).await);
    assert!(!has(&tenants.other, blob).await);
    let beyond = BlobRange {
        offset: 6,
        limit: None,
    };
    let read = tenants.other.read(blob, beyond).await;
    assert!(
        matches!(read.err(), Some(Error::NotFound(_))),
        "not that it is short"
    );
    write(&tenants.other, blob, b"hello").await.unwrap();
    assert!(has(&tenants.other, blob).await);
}

#[tokio::test]
async fn f12_all_bytes_of_an_existing_blob_are_checked() {
    // The store below leaves the streams of existing blobs unread.
    struct Unread {
        inner: Arc<dyn BlobStore>,
    }

    #[async_trait]
    impl BlobStore for Unread {
        crate::forward_blob_store!(inner: find_missing, read, lease, resolve, read_batch, write_batch);

        async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
            if self.inner.find_missing(&[digest]).await?.is_empty() {
                return Ok(());
            }
            self.inner.write(digest, blob).await
        }
    }

    let tenants = Tenants::new();
    let blob = noise(1, 3 << 20);
    let digest = sha256(&blob);
    write(&tenants.one, digest, &blob).await.unwrap();
    let unread: Arc<dyn BlobStore> = Arc::new(Unread { inner: tenants.inner });
    let other = view(&unread, "other");

    let mut wrong = blob.clone();
    wrong[2 << 20] ^= 1;
    let mut longer = blob.clone();
    longer.push(0);
    let mut other_size = blob.clone();
    other_size.truncate(3_000_000);
    for claimed in [&b""[..], &wrong, &longer, &other_size] {
        let chunks = claimed
            .chunks(1 << 20)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)));
        let stream = futures::stream::iter(chunks.collect::<Vec<_>>()).boxed();
        let refused = other.write(digest, stream).await;
        assert!(
            matches!(refused, Err(Error::DigestMismatch { .. })),
            "{} bytes: {refused:?}",
            claimed.len()
        );
        let batch = vec![(digest, Bytes::copy_from_slice(claimed))];
        let refused = other.write_batch(batch).await.remove(0);
        assert!(
            matches!(refused, Err(Error::DigestMismatch { .. })),
            "{refused:?}"
        );
        assert!(!has(&other, digest).await);
    }
    write(&other, digest, &blob).await.unwrap();
    assert!(has(&other, digest).await);
}

/// A coalescing store ends the second writer without reading its stream. That must not give it the blob.
#[tokio::test]
async fn f12_waiting_for_another_writer_proves_nothing() {
    let inner: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    let coalescing: Arc<dyn BlobStore> = Arc::new(CoalescingBlobStore::new(inner));
    let (one, other) = (view(&coalescing, "one"), view(&coalescing, "other"));
    let blob = sha256(b"hello");
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let held = tokio_stream::wrappers::ReceiverStream::new(receiver)
        .map(Ok)
        .boxed();
    let mut first = one.write(blob, held);
    assert!(futures::poll!(&mut first).is_pending());
    let mut second = other.write(blob, one_chunk(Bytes::from_static(b"wrong")));
    assert!(futures::poll!(&mut second).is_pending(), "waits for the first");
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    drop(sender);
    first.await.unwrap();
    assert!(matches!(second.await, Err(Error::DigestMismatch { .. })));
    assert!(has(&one, blob).await);
    assert!(!has(&other, blob).await);
}

#[tokio::test]
async fn f12_markers_cannot_be_found_or_forged() {
    let tenants = Tenants::new();
    let blob = sha256(b"hello");
    write(&tenants.one, blob, b"hello").await.unwrap();
    let key = PossessionKey::new(b"secret").of_tenant("one");
    let (marker, tag) = key.marker(blob);
    assert!(has(&*tenants.inner, marker).await);
    assert!(!has(&tenants.one, marker).await, "a marker is nobody's blob");
    let others = [
        PossessionKey::new(b"secret").of_tenant("other").marker(blob).1,
        PossessionKey::new(b"another").of_tenant("one").marker(blob).1,
        PossessionKey::new(b"secret").marker(blob).1,
    ];
    assert!(!others.contains(&tag));
    let longer = Digest::new(blob.function(), *blob.hash(), 6);
    assert!(!has(&tenants.one, longer).await, "the size is a part of the name");
}

#[tokio::test]
async fn f12_possession_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let options = DiskBlobStoreOptions {
        limit_bytes: 1 << 20,
        free_space_floor_bytes: 0,
        compress: false,
    };
    let blob = sha256(b"hello");
    let open = || DiskBlobStore::open(directory.path(), options);
    let store = open().await.unwrap();
    let inner: Arc<dyn BlobStore> = Arc::new(store.clone());
    write(&view(&inner, "one"), blob, b"hello").await.unwrap();
    store.close().await.unwrap();
    drop((inner, store));
    let inner: Arc<dyn BlobStore> = Arc::new(open().await.unwrap());
    assert!(has(&view(&inner, "one"), blob).await);
    assert!(!has(&view(&inner, "other"), blob).await);
}

/// Blob and marker are used together, so that a full store does not evict the one and keep the other.
#[tokio::test]
async fn a_lease_keeps_the_marker_too() {
    let directory = tempfile::tempdir().unwrap();
    let options = DiskBlobStoreOptions {
        limit_bytes: 20 * 4096,
        free_space_floor_bytes: 0,
        compress: false,
    };
    let inner: Arc<dyn BlobStore> = Arc::new(DiskBlobStore::open(directory.path(), options).await.unwrap());
    let one = view(&inner, "one");
    let blob = sha256(b"hello");
    write(&one, blob, b"hello").await.unwrap();
    let lease = one.lease(&[blob]).await.unwrap();
    let flood = async |from: u64| {
        for number in from..from + 100 {
            let bytes = number.to_le_bytes();
            write(&one, sha256(&bytes), &bytes).await.unwrap();
        }
    };
    flood(0).await;
    assert_eq!(one.find_missing(&[blob]).await.unwrap(), []);
    drop(lease);
    flood(1000).await;
    assert_eq!(one.find_missing(&[blob]).await.unwrap(), [blob]);
}

#[tokio::test]
async fn a_lost_marker_makes_its_blob_missing() {
    let tenants = Tenants::new();
    let blob = sha256(b"hello");
    write(&tenants.one, blob, b"hello").await.unwrap();
    let key = PossessionKey::new(b"secret").of_tenant("one");
    tenants.inner.remove(key.marker(blob).0);
    assert!(!has(&tenants.one, blob).await);
    write(&tenants.one, blob, b"hello").await.unwrap();
    assert!(has(&tenants.one, blob).await);
}

#[tokio::test]
async fn an_evicted_blob_is_missing_and_comes_back() {
    let tenants = Tenants::new();
    let blob = sha256(b"hello");
    write(&tenants.one, blob, b"hello").await.unwrap();
    tenants.inner.remove(blob);
    assert!(!has(&tenants.one, blob).await);
    write(&tenants.other, blob, b"hello").await.unwrap();
    assert!(
        has(&tenants.one, blob).await,
        "it proved once that it has the blob"
    );
}

#[tokio::test]
async fn the_empty_blob_is_everybodys() {
    let tenants = Tenants::new();
    let empty = sha256(b"");
    assert_eq!(tenants.one.find_missing(&[empty]).await.unwrap(), []);
    assert_eq!(read_whole(&tenants.one, empty).await.unwrap(), "");
    let wrong = tenants
        .one
        .write_batch(vec![(empty, Bytes::from_static(b"!"))])
        .await;
    assert!(wrong[0].is_err());
}

#[tokio::test]
async fn answers_of_a_batch_keep_their_order() {
    let tenants = Tenants::new();
    let (own, others, absent) = (sha256(b"own"), sha256(b"others"), sha256(b"absent"));
    write(&tenants.one, own, b"own").await.unwrap();
    write(&tenants.other, others, b"others").await.unwrap();
    let asked = [others, own, absent, own, sha256(b"")];
    let read: Vec<_> = tenants.one.read_batch(&asked).await;
    let found: Vec<bool> = read.iter().map(Result::is_ok).collect();
    assert_eq!(found, [false, true, false, true, true]);
    let missing = tenants.one.find_missing(&asked).await.unwrap();
    assert_eq!(missing, [others, absent]);
    let batch = vec![
        (others, Bytes::from_static(b"wrong")),
        (absent, Bytes::from_static(b"absent")),
        (own, Bytes::from_static(b"wrong")),
    ];
    let written: Vec<bool> = tenants
        .one
        .write_batch(batch)
        .await
        .iter()
        .map(Result::is_ok)
        .collect();
    assert_eq!(written, [false, true, false]);
    assert!(!has(&tenants.one, others).await);
    assert!(has(&tenants.one, absent).await);
}

#[tokio::test]
async fn a_store_that_is_down_is_no_missing_blob() {
    let switched = SwitchedBlobStore::new(Arc::new(MemoryBlobStore::default()));
    let store: Arc<dyn BlobStore> = Arc::clone(&switched) as Arc<dyn BlobStore>;
    let one = view(&store, "one");
    let blob = sha256(b"hello");
    write(&one, blob, b"hello").await.unwrap();
    switched.set_down(true);
    for result in one.read_batch(&[blob, blob]).await {
        assert!(result.unwrap_err().is_transient());
    }
    assert!(one.find_missing(&[blob]).await.is_err());
    assert!(one.resolve(blob.function(), *blob.hash()).await.is_err());
    assert!(write(&one, blob, b"hello").await.is_err());
}
