mod chunk_limit;
mod compression;
mod corruption;
mod damage;
mod eviction;
mod full_disk;
mod killed;

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use tokio::sync::oneshot;

use super::*;
use crate::blob_store::{collect, read_whole};
use crate::testing::{model, noise, sha256};

const ROOMY: DiskBlobStoreOptions = DiskBlobStoreOptions {
    limit_bytes: 1 << 30,
    free_space_floor_bytes: 0,
    compress: false,
};

async fn open(root: &TempDir) -> DiskBlobStore {
    DiskBlobStore::open(root.path(), ROOMY).await.unwrap()
}

async fn add(store: &DiskBlobStore, blob: &[u8]) -> Digest {
    let digest = sha256(blob);
    store
        .write(digest, one_chunk(Bytes::copy_from_slice(blob)))
        .await
        .unwrap();
    digest
}

async fn is_present(store: &DiskBlobStore, digest: Digest) -> bool {
    store.find_missing(&[digest]).await.unwrap().is_empty()
}

fn files_in(directory: PathBuf) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(directory) else {
        return vec![];
    };
    let mut files: Vec<PathBuf> = listing.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Stream that delivers `start` and then nothing more. The receiver gets a message when the consumer asks for more: the
/// store has reserved space for a large blob by then.
fn stalled(start: impl Into<Bytes>) -> (BlobStream, oneshot::Receiver<()>) {
    let (asked_for_more, receiver) = oneshot::channel();
    let stall = futures::stream::once(async move {
        let _ = asked_for_more.send(());
        std::future::pending().await
    });
    (one_chunk(start.into()).chain(stall).boxed(), receiver)
}

/// Starts a write that stalls after `start`, and returns when space is reserved for it.
async fn start_stalled_write(
    store: &DiskBlobStore,
    digest: Digest,
    start: impl Into<Bytes>,
) -> impl Future<Output = Result<(), Error>> {
    let (blob, reserved) = stalled(start);
    let store = store.clone();
    let mut write = Box::pin(async move { store.write(digest, blob).await });
    tokio::select! {
        written = &mut write => panic!("the write ended: {written:?}"),
        reserved = reserved => reserved.unwrap(),
    }
    write
}

/// Runtime with one thread for blocking work. Its tasks run one after the other, so that [`finish_blocking_work`] can
/// wait for the steps of a dropped write.
fn runtime_with_one_blocking_thread() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .build()
        .unwrap()
}

async fn finish_blocking_work() {
    run_blocking(|| ()).await;
}

/// Bytes of blobs on the disk, in blocks, without holes.
fn bytes_on_disk(root: &TempDir) -> u64 {
    bytes_in(root.path())
}

fn bytes_in(root: &Path) -> u64 {
    let segments = files_in(root.join("segments"));
    let files = blob_files_in(root).into_iter().map(|(path, _)| path);
    let mut bytes = 0;
    for path in segments.into_iter().chain(files) {
        let file = fs::File::open(&path).unwrap();
        let mut at = 0;
        while let Ok(start) = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(at)) {
            at = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(start)).unwrap();
            bytes += (at - start).next_multiple_of(4096);
        }
    }
    bytes
}

/// All blob files with their sizes.
fn blob_files(root: &TempDir) -> Vec<(PathBuf, u64)> {
    blob_files_in(root.path())
}

fn blob_files_in(root: &Path) -> Vec<(PathBuf, u64)> {
    let mut files = Vec::new();
    for function in ["sha256", "blake3"] {
        for shard in files_in(root.join("blobs").join(function)) {
            for file in files_in(shard) {
                let size = file.metadata().unwrap().len();
                files.push((file, size));
            }
        }
    }
    files
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn behaves_like_every_store_across_restarts(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let root = TempDir::new().unwrap();
        let reopen = async |store: Option<DiskBlobStore>| {
            drop(store);
            open(&root).await
        };
        runtime.block_on(model::run(steps, reopen));
        assert_eq!(files_in(root.path().join("temporary")), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn store_can_be_opened_only_once_at_a_time() {
    let root = TempDir::new().unwrap();
    let _first = open(&root).await;
    let Err(error) = DiskBlobStore::open(root.path(), ROOMY).await else {
        panic!("opened twice");
    };
    assert!(
        error.to_string().contains("another process uses this store"),
        "{error}"
    );
}

#[tokio::test]
async fn blob_files_are_read_only() {
    use std::os::unix::fs::PermissionsExt;
    let root = TempDir::new().unwrap();
    add(&open(&root).await, &noise(1, 2 << 20)).await;
    let (path, _) = &blob_files(&root)[0];
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o444);
}

#[tokio::test]
async fn concurrent_writes_of_one_blob_all_succeed() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let blob = Bytes::from(noise(1, 3 << 20));
    let digest = sha256(&blob);
    let writes = (0..8).map(|_| store.write(digest, one_chunk(blob.clone())));
    for result in futures::future::join_all(writes).await {
        result.unwrap();
    }
    assert_eq!(read_whole(&store, digest).await.unwrap(), blob);
    let usage = store.usage();
    assert_eq!((usage.blobs, usage.bytes, usage.reserved_bytes), (1, 3 << 20, 0));
    assert_eq!(blob_files(&root).len(), 1);
}

#[test]
fn dropped_write_leaves_nothing_behind() {
    runtime_with_one_blocking_thread().block_on(async {
        let root = TempDir::new().unwrap();
        let store = open(&root).await;
        let blob = Bytes::from(noise(2, 5 << 20));
        let digest = sha256(&blob);
        let write = start_stalled_write(&store, digest, blob.slice(..3 << 20)).await;
        assert!(store.usage().reserved_bytes > 0);
        drop(write);
        finish_blocking_work().await;
        assert_eq!(store.usage().reserved_bytes, 0);
        assert!(!is_present(&store, digest).await);
        assert_eq!(files_in(root.path().join("temporary")), Vec::<PathBuf>::new());
    });
}

#[tokio::test]
async fn close_leaves_one_snapshot_and_refuses_writes() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let digest = add(&store, b"blob").await;
    store.close().await.unwrap();
    let index: Vec<_> = files_in(root.path().join("index"));
    assert_eq!(index.len(), 1, "{index:?}");
    let late = store
        .write(sha256(b"late"), one_chunk(Bytes::from_static(b"late")))
        .await;
    assert!(matches!(late, Err(Error::Io { .. })), "{late:?}");
    assert_eq!(read_whole(&store, digest).await.unwrap(), "blob");
    drop(store);
    let store = open(&root).await;
    assert_eq!(read_whole(&store, digest).await.unwrap(), "blob");
    assert_eq!(store.usage().blobs, 1);
}

#[tokio::test]
async fn checkpoint_during_writes_loses_nothing() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let mut digests = Vec::new();
    for seed in 0..50 {
        digests.push(add(&store, &noise(seed, 100)).await);
        if seed % 7 == 0 {
            store.checkpoint().await.unwrap();
        }
    }
    drop(store);
    let store = open(&root).await;
    assert_eq!(store.find_missing(&digests).await.unwrap(), []);
    assert_eq!(store.usage().blobs, 50);
}

#[tokio::test]
async fn hash_resolves_to_a_blob_after_a_restart() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let digests = [add(&store, b"small").await, add(&store, &noise(1, 2 << 20)).await];
    drop(store);
    let store = open(&root).await;
    for digest in digests {
        let found = store.resolve(DigestFunction::Sha256, *digest.hash()).await;
        assert_eq!(found.unwrap(), Some(digest));
        let other = store.resolve(DigestFunction::Blake3, *digest.hash()).await;
        assert_eq!(other.unwrap(), None);
    }
}
