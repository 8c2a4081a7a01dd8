//! Blobs compressed on the disk.

use faster_hex::hex_string;

use super::*;

const COMPRESSING: DiskBlobStoreOptions = DiskBlobStoreOptions {
    compress: true,
    ..ROOMY
};

/// Text that compresses to about a quarter.
fn text(seed: u64, size: usize) -> Vec<u8> {
    let digits = hex_string(&noise(seed, size / 4 + 1));
    digits
        .bytes()
        .flat_map(|digit| [digit, b' '])
        .take(size)
        .collect()
}

#[tokio::test]
async fn compressed_blobs_read_as_others_and_take_less_space() {
    let root = TempDir::new().unwrap();
    let store = DiskBlobStore::open(root.path(), COMPRESSING).await.unwrap();
    let mut blobs = Vec::new();
    for size in [1, 4096, 100_000, 1 << 20, (1 << 20) + 1, 3 << 20, 5_000_000] {
        let before = store.usage().bytes;
        let blob = text(size as u64, size);
        let digest = add(&store, &blob).await;
        let taken = store.usage().bytes - before;
        let raw = (size as u64).next_multiple_of(4096);
        assert!(
            size <= 4096 && taken == raw || taken < raw * 2 / 3,
            "{size}: {taken}"
        );
        blobs.push((digest, blob));
    }
    let noise = noise(9, 3 << 20);
    blobs.push((add(&store, &noise).await, noise));
    assert_eq!(bytes_on_disk(&root), store.usage().bytes);
    store.close().await.unwrap();
    drop(store);
    // Existing blobs can be read whatever the option is now.
    let store = open(&root).await;
    for (digest, blob) in &blobs {
        assert_eq!(read_whole(&store, *digest).await.unwrap(), blob);
        assert_eq!(store.read_batch(&[*digest]).await.pop().unwrap().unwrap(), blob);
        let size = blob.len();
        for (offset, limit) in [
            (0, 1),
            (size / 2, size),
            (size - 1, 1),
            (size, 5),
            ((1 << 20) - 3, 6),
        ] {
            let range = BlobRange {
                offset: offset as u64,
                limit: Some(limit as u64),
            };
            if offset <= size {
                let part = collect(store.read(*digest, range).await.unwrap()).await.unwrap();
                assert_eq!(part, blob[offset..size.min(offset + limit)], "{size} at {offset}");
            }
        }
    }
    assert_eq!(store.usage().corrupt_blobs, 0);
}

#[tokio::test]
async fn flipped_bit_in_a_compressed_blob_is_detected() {
    let root = TempDir::new().unwrap();
    let store = DiskBlobStore::open(root.path(), COMPRESSING).await.unwrap();
    let part = BlobRange {
        offset: 10,
        limit: Some(10),
    };
    let mut corrupt = 0;
    for size in [100_000, 3 << 20] {
        for range in [BlobRange::default(), part] {
            for at in [3, 1000, 20_000] {
                let blob = text(1, size);
                let digest = add(&store, &blob).await;
                store.directory.damage(digest, |bytes| bytes[at] ^= 0x40);
                let read = match store.read(digest, range).await {
                    Ok(stream) => collect(stream).await,
                    Err(error) => Err(error),
                };
                assert!(matches!(read, Err(Error::NotFound(_))), "{size} {at} {read:?}");
                corrupt += 1;
                assert_eq!(store.usage().corrupt_blobs, corrupt);
                assert!(!is_present(&store, digest).await);
            }
        }
    }
}
