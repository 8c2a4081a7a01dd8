use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::blob_store::one_chunk;
use crate::decorators::coalescing_blob_store::CoalescingBlobStore;
use crate::decorators::mirrored_blob_store::{MirroredBlobStore, OneSideDown};
use crate::decorators::tiered_blob_store::TieredBlobStore;
use crate::media::disk_blob_store::{DiskBlobStore, DiskBlobStoreOptions};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::failing_blob_store::{FailingBlobStore, SwitchedBlobStore};
use crate::testing::{model, noise, sha256};

/// Two tenants of one store.
struct Tenants {
    inner: Arc<MemoryBlobStore>,
    one: IsolatedBlobStore,
    other: IsolatedBlobStore,
}

/// Leaves the streams of blobs that exist unread. Nothing is leased.
struct Unread {
    inner: Arc<dyn BlobStore>,
}

#[async_trait]
impl BlobStore for Unread {
    crate::forward_blob_store!(inner: find_missing, read, resolve, read_batch, write_batch);

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        if self.inner.find_missing(&[digest]).await?.is_empty() {
            return Ok(());
        }
        self.inner.write(digest, blob).await
    }

    async fn lease(&self, digests: &[Digest]) -> Result<Lease, Error> {
        assert_eq!(digests, [], "a blob of another tenant is leased");
        Ok(Lease::none())
    }
}

/// Counts the calls that look for blobs or read them.
struct Counted {
    inner: Arc<dyn BlobStore>,
    reads: AtomicUsize,
}

impl Counted {
    fn new(inner: Arc<dyn BlobStore>) -> Self {
        let reads = AtomicUsize::new(0);
        Self { inner, reads }
    }
}

#[async_trait]
impl BlobStore for Counted {
    crate::forward_blob_store!(inner: write, lease, resolve, write_batch);

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.find_missing(digests).await
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.read(digest, range).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.inner.read_batch(digests).await
    }
}

fn view(inner: &Arc<dyn BlobStore>, tenant: &str) -> IsolatedBlobStore {
    let key = PossessionKey::new(b"secret").of_tenant(tenant);
    IsolatedBlobStore::new(Arc::clone(inner), key, Arc::default())
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
    assert_eq!(tenants.one.find_missing(&[blob]).await.unwrap(), [blob]);
    let inner: Arc<dyn BlobStore> = tenants.inner;
    let after_restart = view(&inner, "one");
    assert!(!has(&after_restart, blob).await);
    write(&after_restart, blob, b"hello").await.unwrap();
    assert!(has(&view(&inner, "one"), blob).await);
}

/// A lost marker does not take back what this server has seen.
#[tokio::test]
async fn possession_is_never_taken_back() {
    let tenants = Tenants::new();
    let blob = sha256(b"hello");
    write(&tenants.one, blob, b"hello").await.unwrap();
    let key = PossessionKey::new(b"secret").of_tenant("one");
    tenants.inner.remove(key.marker(blob).0);
    assert_eq!(read_whole(&tenants.one, blob).await.unwrap(), "hello");
    assert!(tenants.one.read_batch(&[blob]).await.remove(0).is_ok());
}

/// A mirror serves reads with one side, but says nothing about missing blobs.
#[tokio::test]
async fn reads_go_on_with_one_side_of_a_mirror() {
    let down = SwitchedBlobStore::new(Arc::new(MemoryBlobStore::default()));
    let sides: [Arc<dyn BlobStore>; 2] = [Arc::clone(&down) as _, Arc::new(MemoryBlobStore::default())];
    let [one, other] = sides;
    let mirror: Arc<dyn BlobStore> = Arc::new(MirroredBlobStore::new(one, other, OneSideDown::Refuse));
    let blob = sha256(b"hello");
    let writer = view(&mirror, "one");
    write(&writer, blob, b"hello").await.unwrap();
    down.set_down(true);
    // Also after a restart, when nothing is remembered.
    for store in [writer, view(&mirror, "one")] {
        assert!(store.find_missing(&[blob]).await.is_err());
        assert_eq!(read_whole(&store, blob).await.unwrap(), "hello");
        assert_eq!(store.read_batch(&[blob]).await.remove(0).unwrap(), "hello");
        store.lease(&[blob]).await.unwrap();
    }
}

/// A tier serves what its fast store has.
#[tokio::test]
async fn reads_go_on_without_the_slow_store_of_a_tier() {
    let slow = SwitchedBlobStore::new(Arc::new(MemoryBlobStore::default()));
    let fast = Arc::new(MemoryBlobStore::default());
    let tier: Arc<dyn BlobStore> = Arc::new(TieredBlobStore::write_through(fast, Arc::clone(&slow) as _));
    let blob = sha256(b"hello");
    write(&view(&tier, "one"), blob, b"hello").await.unwrap();
    slow.set_down(true);
    let after_restart = view(&tier, "one");
    assert_eq!(read_whole(&after_restart, blob).await.unwrap(), "hello");
    let other = read_whole(&view(&tier, "other"), blob).await.unwrap_err();
    assert!(
        other.is_transient(),
        "its marker may be in the slow store: {other}"
    );
}

/// Some caches answer every HEAD with success. That proves nothing.
#[tokio::test]
async fn f12_a_marker_that_only_seems_to_exist_proves_nothing() {
    struct HasAll {
        inner: Arc<dyn BlobStore>,
    }

    #[async_trait]
    impl BlobStore for HasAll {
        crate::forward_blob_store!(inner: read, write, lease, resolve, write_batch);

        async fn find_missing(&self, _: &[Digest]) -> Result<Vec<Digest>, Error> {
            Ok(vec![])
        }

        /// Bytes of some page.
        async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
            let read = self.inner.read_batch(digests).await.into_iter();
            read.map(|blob| Ok(blob.unwrap_or(Bytes::from_static(b"<html>"))))
                .collect()
        }
    }

    let tenants = Tenants::new();
    let blob = sha256(b"hello");
    write(&tenants.one, blob, b"hello").await.unwrap();
    let all: Arc<dyn BlobStore> = Arc::new(HasAll { inner: tenants.inner });
    assert!(!has(&view(&all, "other"), blob).await);
    assert!(has(&view(&all, "one"), blob).await);
}

/// A tenant that sends slowly what another one has does not keep it in the store.
#[tokio::test]
async fn f12_a_stalled_upload_leases_nothing() {
    let tenants = Tenants::new();
    let blob = sha256(b"hello");
    write(&tenants.one, blob, b"hello").await.unwrap();
    let unread: Arc<dyn BlobStore> = Arc::new(Unread {
        inner: Arc::clone(&tenants.inner) as _,
    });
    let other = view(&unread, "other");
    other.lease(&[blob]).await.unwrap();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let held = tokio_stream::wrappers::ReceiverStream::new(receiver).map(Ok);
    let mut stalled = other.write(blob, held.boxed());
    assert!(futures::poll!(&mut stalled).is_pending());
    tenants.inner.remove(blob);
    sender.send(Bytes::from_static(b"hello")).await.unwrap();
    drop(sender);
    assert!(
        matches!(stalled.await, Err(Error::Abandoned(_))),
        "nobody has it now"
    );
    write(&other, blob, b"hello").await.unwrap();
    assert!(has(&other, blob).await);
}

/// By hash alone, a blob of another tenant takes the same calls as one that nobody has.
#[tokio::test]
async fn f12_a_look_up_by_hash_reads_a_marker_in_any_case() {
    let counted = Arc::new(Counted::new(Arc::new(MemoryBlobStore::default())));
    let store = Arc::clone(&counted) as Arc<dyn BlobStore>;
    let others = sha256(b"hello");
    write(&view(&store, "one"), others, b"hello").await.unwrap();
    let mut reads = Vec::new();
    for hash in [*others.hash(), *sha256(b"absent").hash()] {
        counted.reads.store(0, Ordering::SeqCst);
        let resolved = view(&store, "other").resolve(others.function(), hash).await;
        assert_eq!(resolved.unwrap(), None);
        reads.push(counted.reads.load(Ordering::SeqCst));
    }
    assert_eq!(reads, [1, 1]);
}

/// One call for the markers of a batch, also when it fails.
#[tokio::test]
async fn a_failing_store_is_asked_once_for_a_batch() {
    let counted = Arc::new(Counted::new(Arc::new(FailingBlobStore)));
    let store = Arc::clone(&counted) as Arc<dyn BlobStore>;
    let digests: Vec<Digest> = (0..50_u8).map(|number| sha256(&[number])).collect();
    let read = view(&store, "one").read_batch(&digests).await;
    assert_eq!(read.len(), 50);
    assert!(
        read.iter()
            .all(|blob| blob.as_ref().is_err_and(Error::is_transient))
    );
    assert_eq!(counted.reads.load(Ordering::SeqCst), 1);
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
    let after_restart = view(&store, "one");
    assert!(read_whole(&after_restart, blob).await.unwrap_err().is_transient());
    assert!(one.find_missing(&[blob]).await.is_err());
    assert!(one.resolve(blob.function(), *blob.hash()).await.is_err());
    assert!(write(&one, blob, b"hello").await.is_err());
}
