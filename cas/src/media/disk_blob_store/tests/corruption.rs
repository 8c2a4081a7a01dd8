//! Corrupt files and segments.

use super::*;

/// Changes one bit, as a faulty disk does.
fn flip(store: &DiskBlobStore, digest: Digest, at: usize) {
    store.directory.damage(digest, |bytes| bytes[at] ^= 0x40);
}

#[tokio::test]
async fn corrupt_blob_is_quarantined_and_counted() {
    // Small, as a stream, and beyond the first chunk of a stream.
    for (size, at) in [(1000, 500), (3 << 20, 10), (3 << 20, (3 << 20) - 1)] {
        let root = TempDir::new().unwrap();
        let store = open(&root).await;
        let blob = noise(1, size);
        let digest = add(&store, &blob).await;
        flip(&store, digest, at);
        let result = read_whole(&store, digest).await;
        assert!(matches!(result, Err(Error::NotFound(_))), "{size} bytes");
        assert_eq!(store.usage().corrupt_blobs, 1);
        assert!(!is_present(&store, digest).await);
        assert_eq!(files_in(root.path().join("quarantine")).len(), 1);
        // It can be stored again.
        assert_eq!(add(&store, &blob).await, digest);
        assert_eq!(read_whole(&store, digest).await.unwrap(), blob);
    }
}

/// The checksum of large blobs is in the index alone.
#[tokio::test]
async fn corrupt_large_blob_is_detected_after_a_restart() {
    for keep_index in [true, false] {
        let root = TempDir::new().unwrap();
        let store = open(&root).await;
        let (bad, good) = (noise(1, 3 << 20), noise(2, 3 << 20));
        let (bad_digest, good_digest) = (add(&store, &bad).await, add(&store, &good).await);
        drop(store);
        if !keep_index {
            fs::remove_dir_all(root.path().join("index")).unwrap();
        }
        let store = open(&root).await;
        flip(&store, bad_digest, 2 << 20);
        let result = read_whole(&store, bad_digest).await;
        assert!(matches!(result, Err(Error::NotFound(_))), "{keep_index}");
        assert_eq!(read_whole(&store, good_digest).await.unwrap(), good);
        assert_eq!(store.usage().corrupt_blobs, 1);
    }
}

#[tokio::test]
async fn corrupt_blob_in_a_batch_fails_alone() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let bad = add(&store, b"bad").await;
    flip(&store, bad, 1);
    let good = add(&store, b"good").await;
    let results = store.read_batch(&[good, bad, good]).await;
    assert!(
        matches!(&results[..], [Ok(_), Err(Error::NotFound(_)), Ok(_)]),
        "{results:?}"
    );
}

#[tokio::test]
async fn corrupt_small_blob_is_detected_by_a_partial_read() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let digest = add(&store, &noise(1, 10_000)).await;
    flip(&store, digest, 9_000);
    let range = BlobRange {
        offset: 2,
        limit: Some(2),
    };
    assert!(matches!(store.read(digest, range).await, Err(Error::NotFound(_))));
    assert_eq!(store.usage().corrupt_blobs, 1);
    assert!(!is_present(&store, digest).await);
}

#[tokio::test]
async fn wrong_size_of_a_large_blob_is_detected_by_a_partial_read() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    for size in [2 << 20, 4 << 20] {
        let digest = add(&store, &noise(1, 3 << 20)).await;
        store.directory.damage(digest, |bytes| bytes.resize(size, 0));
        let range = BlobRange {
            offset: 2,
            limit: Some(2),
        };
        assert!(matches!(store.read(digest, range).await, Err(Error::NotFound(_))));
    }
    assert_eq!(store.usage().corrupt_blobs, 2);
}

#[tokio::test]
async fn entry_of_a_removed_file_is_forgotten() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let digest = add(&store, &noise(1, 2 << 20)).await;
    fs::remove_file(&blob_files(&root)[0].0).unwrap();
    assert!(matches!(
        read_whole(&store, digest).await,
        Err(Error::NotFound(_))
    ));
    assert!(!is_present(&store, digest).await);
    assert_eq!(store.usage().bytes, 0);
}

#[tokio::test]
async fn quarantine_is_evicted_first() {
    let root = TempDir::new().unwrap();
    let options = DiskBlobStoreOptions {
        limit_bytes: 2 * 4096,
        ..ROOMY
    };
    let store = DiskBlobStore::open(root.path(), options).await.unwrap();
    let bad = add(&store, b"bad").await;
    flip(&store, bad, 1);
    assert!(read_whole(&store, bad).await.is_err());
    let kept = add(&store, b"kept").await;
    assert_eq!(files_in(root.path().join("quarantine")).len(), 1);
    add(&store, b"new").await;
    assert!(is_present(&store, kept).await);
    assert_eq!(files_in(root.path().join("quarantine")).len(), 0);
}

#[tokio::test]
async fn intact_blobs_survive_the_loss_of_the_index() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let bad = add(&store, &noise(1, 2 << 20)).await;
    flip(&store, bad, 1);
    let small = add(&store, b"small").await;
    let good = add(&store, &noise(2, 2 << 20)).await;
    drop(store);
    fs::remove_dir_all(root.path().join("index")).unwrap();
    let shard = blob_files(&root)[0].0.parent().unwrap().to_owned();
    fs::write(shard.join("stray"), "x").unwrap();
    let store = open(&root).await;
    assert_eq!(store.find_missing(&[bad, small, good]).await.unwrap(), [bad]);
    assert_eq!(bytes_on_disk(&root), (2 << 20) + 4096);
}

/// Simulates a restart of the machine: changes the boot id after the magic of each journal, and the checksum.
fn reboot(root: &TempDir) {
    for journal in files_in(root.path().join("index")) {
        if journal.to_string_lossy().contains("journal") {
            let mut bytes = fs::read(&journal).unwrap();
            bytes[10] ^= 1;
            let checksum = crc32fast::hash(&bytes[..60]);
            bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
            fs::write(&journal, bytes).unwrap();
        }
    }
}

#[tokio::test]
async fn power_loss_keeps_exactly_the_last_checkpoint() {
    for size in [1000, 2 << 20] {
        let root = TempDir::new().unwrap();
        let store = open(&root).await;
        let synced = add(&store, &noise(1, size)).await;
        let evicted = add(&store, &noise(2, size)).await;
        store.checkpoint().await.unwrap();
        let late = add(&store, &noise(3, size)).await;
        // Evicted after the checkpoint, which still lists it.
        let entries = store.directory.entries();
        let kept = DirectoryLease::new(Arc::clone(&store.directory), vec![synced, late]);
        store.directory.evict(0, 0).unwrap();
        assert_eq!(entries.len(), 3);
        drop(kept);
        drop(store);
        reboot(&root);
        let store = open(&root).await;
        assert_eq!(
            store.find_missing(&[synced, evicted, late]).await.unwrap(),
            [evicted, late],
            "{size} bytes"
        );
        assert_eq!(bytes_on_disk(&root), (size as u64).next_multiple_of(4096));
        drop(store);
        let store = open(&root).await;
        assert_eq!(read_whole(&store, synced).await.unwrap(), noise(1, size));
    }
}
