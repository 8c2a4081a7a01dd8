//! Files that are not what they were.

use std::io::{Seek, SeekFrom, Write};

use super::*;

/// Changes one byte, as a bad disk does. Files are read-only, so a new one takes the place of the old.
fn flip_byte(path: &Path, at: u64) {
    let copy = path.with_extension("copy");
    let bytes = fs::read(path).unwrap();
    let mut file = fs::File::create(&copy).unwrap();
    file.write_all(&bytes).unwrap();
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[bytes[usize::try_from(at).unwrap()] ^ 0x80])
        .unwrap();
    fs::rename(&copy, path).unwrap();
}

#[tokio::test]
async fn a_corrupt_blob_is_not_found_counted_and_in_quarantine() {
    // Small, as a stream, and beyond the first chunk of a stream.
    for (size, at) in [(1000, 500), (3 << 20, 10), (3 << 20, (3 << 20) - 1)] {
        let root = TempDir::new().unwrap();
        let store = open(&root).await;
        let blob = noise(1, size);
        let digest = add(&store, &blob).await;
        flip_byte(&blob_files(&root)[0].0, at);
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

#[tokio::test]
async fn a_corrupt_blob_in_a_batch_spoils_only_itself() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let bad = add(&store, b"bad").await;
    flip_byte(&blob_files(&root)[0].0, 1);
    let good = add(&store, b"good").await;
    let results = store.read_batch(&[good, bad, good]).await;
    assert!(
        matches!(&results[..], [Ok(_), Err(Error::NotFound(_)), Ok(_)]),
        "{results:?}"
    );
}

#[tokio::test]
async fn a_truncated_or_grown_blob_is_noticed_also_when_only_a_part_is_read() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let digest = add(&store, b"0123456789").await;
    let (path, _) = &blob_files(&root)[0];
    fs::remove_file(path).unwrap();
    fs::write(path, b"01234").unwrap();
    let range = BlobRange {
        offset: 2,
        limit: Some(2),
    };
    assert!(matches!(store.read(digest, range).await, Err(Error::NotFound(_))));
    assert_eq!(store.usage().corrupt_blobs, 1);
}

#[tokio::test]
async fn a_file_that_somebody_removed_is_forgotten() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let digest = add(&store, b"blob").await;
    fs::remove_file(&blob_files(&root)[0].0).unwrap();
    assert!(matches!(
        read_whole(&store, digest).await,
        Err(Error::NotFound(_))
    ));
    assert!(!is_present(&store, digest).await);
    assert_eq!(store.usage().bytes, 0);
}

#[tokio::test]
async fn the_quarantine_is_the_first_to_make_room() {
    let root = TempDir::new().unwrap();
    let options = DiskBlobStoreOptions {
        limit_bytes: 2 * 4096,
        ..ROOMY
    };
    let store = DiskBlobStore::open(root.path(), options).await.unwrap();
    let bad = add(&store, b"bad").await;
    flip_byte(&blob_files(&root)[0].0, 1);
    assert!(read_whole(&store, bad).await.is_err());
    let kept = add(&store, b"kept").await;
    assert_eq!(files_in(root.path().join("quarantine")).len(), 1);
    add(&store, b"new").await;
    assert!(is_present(&store, kept).await);
    assert_eq!(files_in(root.path().join("quarantine")).len(), 0);
}

#[tokio::test]
async fn without_an_index_the_store_is_rebuilt_from_its_intact_files() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let bad = add(&store, b"bad").await;
    flip_byte(&blob_files(&root)[0].0, 1);
    let good = add(&store, &noise(1, 100_000)).await;
    drop(store);
    fs::remove_dir_all(root.path().join("index")).unwrap();
    let shard = blob_files(&root)[0].0.parent().unwrap().to_owned();
    fs::write(shard.join("stray"), "x").unwrap();
    let store = open(&root).await;
    assert_eq!(store.find_missing(&[bad, good]).await.unwrap(), [bad]);
    assert_eq!(blob_files(&root).len(), 1);
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_believed() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let digest = add(&store, b"blob").await;
    store.close().await.unwrap();
    drop(store);
    let snapshot = &files_in(root.path().join("index"))[0];
    flip_byte(snapshot, 20);
    let store = open(&root).await;
    assert_eq!(read_whole(&store, digest).await.unwrap(), "blob");
    assert_eq!(store.usage().blobs, 1);
}

#[tokio::test]
async fn after_a_power_loss_what_the_last_checkpoint_lists_is_kept_and_the_rest_removed() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let synced = add(&store, b"synced").await;
    let lost = add(&store, b"lost by the disk").await;
    store.checkpoint().await.unwrap();
    let late = add(&store, b"late").await;
    drop(store);
    for (path, _) in blob_files(&root) {
        if path.to_string_lossy().contains(&lost.hash_hex()) {
            fs::remove_file(path).unwrap();
        }
    }
    // Another boot: its id stands behind the magic of the journal.
    let journal = files_in(root.path().join("index"))
        .into_iter()
        .find(|path| path.to_string_lossy().contains("journal"))
        .unwrap();
    flip_byte(&journal, 10);
    let store = open(&root).await;
    assert_eq!(
        store.find_missing(&[synced, lost, late]).await.unwrap(),
        [lost, late]
    );
    assert_eq!(blob_files(&root).len(), 1);
    drop(store);
    let store = open(&root).await;
    assert!(is_present(&store, synced).await);
}
