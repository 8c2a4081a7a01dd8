//! The limit, and the order of eviction.

use super::*;

const BLOCK_BYTES: u64 = 4096;

async fn open_with_blocks(root: &TempDir, blocks: u64) -> DiskBlobStore {
    let options = DiskBlobStoreOptions {
        limit_bytes: blocks * BLOCK_BYTES,
        ..ROOMY
    };
    DiskBlobStore::open(root.path(), options).await.unwrap()
}

#[tokio::test]
async fn evicts_the_least_recently_used_blob_first() {
    let root = TempDir::new().unwrap();
    let store = open_with_blocks(&root, 4).await;
    let mut digests = Vec::new();
    for seed in 0..4 {
        digests.push(add(&store, &noise(seed, 1000)).await);
    }
    read_whole(&store, digests[0]).await.unwrap();
    assert!(
        is_present(&store, digests[1]).await,
        "being asked for extends the life"
    );
    digests.push(add(&store, &noise(4, 1000)).await);
    digests.push(add(&store, &noise(5, 1000)).await);
    let missing = store.find_missing(&digests).await.unwrap();
    assert_eq!(missing, digests[2..4]);
    assert_eq!(bytes_on_disk(&root), 4 * BLOCK_BYTES);
}

#[tokio::test]
async fn order_of_use_survives_a_clean_restart() {
    let root = TempDir::new().unwrap();
    let store = open_with_blocks(&root, 3).await;
    let mut digests = Vec::new();
    for seed in 0..3 {
        digests.push(add(&store, &noise(seed, 10)).await);
    }
    read_whole(&store, digests[0]).await.unwrap();
    store.close().await.unwrap();
    drop(store);
    let store = open_with_blocks(&root, 3).await;
    add(&store, &noise(3, 10)).await;
    assert_eq!(store.find_missing(&digests).await.unwrap(), [digests[1]]);
}

#[tokio::test]
async fn blob_beyond_the_limit_is_refused_and_evicts_nothing() {
    let root = TempDir::new().unwrap();
    let store = open_with_blocks(&root, 4).await;
    let kept = add(&store, b"kept").await;
    let large = noise(1, 5 * 4096);
    let refused = store.write(sha256(&large), one_chunk(large.into())).await;
    assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
    assert!(is_present(&store, kept).await);
    assert_eq!(store.usage().reserved_bytes, 0);
}

#[tokio::test]
async fn wrong_blob_evicts_nothing() {
    let root = TempDir::new().unwrap();
    let store = open_with_blocks(&root, 1).await;
    let kept = add(&store, b"kept").await;
    let refused = store
        .write(sha256(b"right"), one_chunk(Bytes::from_static(b"wrong")))
        .await;
    assert!(
        matches!(refused, Err(Error::DigestMismatch { .. })),
        "{refused:?}"
    );
    assert!(is_present(&store, kept).await);
}

#[test]
fn unfinished_writes_count_towards_the_limit() {
    runtime_with_one_blocking_thread().block_on(async {
        let root = TempDir::new().unwrap();
        let store = open_with_blocks(&root, 1024).await;
        let large = Bytes::from(noise(1, 3 << 20));
        let write = start_stalled_write(&store, sha256(&large), large.slice(..2 << 20)).await;
        let other = noise(2, 3 << 20);
        let refused = store.write(sha256(&other), one_chunk(other.clone().into())).await;
        assert!(matches!(refused, Err(Error::NoSpace { .. })), "{refused:?}");
        drop(write);
        finish_blocking_work().await;
        add(&store, &other).await;
    });
}

#[tokio::test]
async fn free_space_floor_refuses_writes_with_numbers() {
    let root = TempDir::new().unwrap();
    let options = DiskBlobStoreOptions {
        free_space_floor_bytes: 1 << 60,
        ..ROOMY
    };
    let kept = add(&open(&root).await, b"kept").await;
    let store = DiskBlobStore::open(root.path(), options).await.unwrap();
    let refused = store
        .write(sha256(b"blob"), one_chunk(Bytes::from_static(b"blob")))
        .await;
    let message = refused.unwrap_err().to_string();
    assert!(message.contains("must stay free"), "{message}");
    assert_eq!(read_whole(&store, kept).await.unwrap(), "kept");
}

#[tokio::test]
async fn lowered_limit_is_kept_from_the_start() {
    let root = TempDir::new().unwrap();
    let store = open_with_blocks(&root, 100).await;
    for seed in 0..100 {
        add(&store, &noise(seed, 10)).await;
    }
    drop(store);
    let store = open_with_blocks(&root, 10).await;
    assert_eq!(store.usage().blobs, 10);
    assert_eq!(bytes_on_disk(&root), 10 * BLOCK_BYTES);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn limit_holds_at_every_step(sizes in prop::collection::vec(1..40_000_usize, 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let root = TempDir::new().unwrap();
            let store = open_with_blocks(&root, 20).await;
            for (seed, size) in sizes.into_iter().enumerate() {
                let digest = add(&store, &noise(seed as u64, size)).await;
                assert!(is_present(&store, digest).await);
                let bytes = bytes_on_disk(&root);
                assert_eq!(bytes, store.usage().bytes);
                assert!(bytes <= 20 * BLOCK_BYTES);
            }
        });
    }
}

/// The client declares the size in a digest.
#[test]
fn declaring_much_and_sending_little_evicts_nothing() {
    runtime_with_one_blocking_thread().block_on(declare_much_and_send_little());
}

#[test]
fn f21_stalled_writes_reserve_what_has_arrived() {
    runtime_with_one_blocking_thread().block_on(stall_many_writes());
}

async fn stall_many_writes() {
    const MIB: u64 = 1 << 20;
    let root = TempDir::new().unwrap();
    let store = open_with_blocks(&root, 64 * MIB / BLOCK_BYTES).await;
    let kept = add(&store, &noise(1, 8 << 20)).await;
    let mut writes = Vec::new();
    for seed in 0..8 {
        let large = Digest::new(bitzel_proto::DigestFunction::Sha256, [seed; 32], 20 * MIB);
        writes.push(start_stalled_write(&store, large, noise(seed.into(), 4 << 20)).await);
    }
    let reserved = store.usage().reserved_bytes;
    assert!(reserved <= 40 * MIB, "{reserved} bytes for 32 MiB");
    assert_eq!(store.find_missing(&[kept]).await.unwrap(), []);
}

async fn declare_much_and_send_little() {
    const MIB: u64 = 1 << 20;
    let root = TempDir::new().unwrap();
    let store = open_with_blocks(&root, 64 * MIB / BLOCK_BYTES).await;
    let mut kept = Vec::new();
    for seed in 0..4 {
        kept.push(add(&store, &noise(seed, 8 << 20)).await);
    }
    let large = Digest::new(bitzel_proto::DigestFunction::Sha256, [7; 32], 60 * MIB);
    let little = one_chunk(Bytes::from(noise(9, 1 << 10)));
    let refused = store.write(large, little).await;
    assert!(
        matches!(refused, Err(Error::DigestMismatch { .. })),
        "{refused:?}"
    );
    // 2 MiB and then nothing more: only their space is reserved.
    let write = start_stalled_write(&store, large, noise(9, 2 << 20)).await;
    assert_eq!(store.usage().reserved_bytes, 2 * MIB);
    assert_eq!(store.usage().evicted_blobs, 0);
    drop(write);
    finish_blocking_work().await;
    assert_eq!(store.find_missing(&kept).await.unwrap(), []);
    // A client that sends all that it declares gets the space, one reservation after the other.
    let honest = noise(10, 60 << 20);
    let chunks: Vec<_> = honest
        .chunks(1 << 20)
        .map(Bytes::copy_from_slice)
        .map(Ok)
        .collect();
    let written = store.write(sha256(&honest), futures::stream::iter(chunks).boxed());
    written.await.unwrap();
    assert_eq!(store.find_missing(&[sha256(&honest)]).await.unwrap(), []);
    assert_eq!(store.usage().reserved_bytes, 0);
    assert!(store.usage().bytes <= 64 * MIB);
}
