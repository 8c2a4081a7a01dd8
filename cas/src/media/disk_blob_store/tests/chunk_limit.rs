//! Chunks for consumers that are short of memory.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::blob_store::chunk_limit::{open_within, stream_within};

#[tokio::test]
async fn f3_chunks_fit_into_the_space_of_the_consumer() {
    let root = TempDir::new().unwrap();
    let store = open(&root).await;
    let blob = noise(1, 4 << 20);
    let digest = add(&store, &blob).await;
    let part = BlobRange {
        offset: 1,
        limit: None,
    };
    for (range, expected) in [(BlobRange::default(), &blob[..]), (part, &blob[1..])] {
        let limit = Arc::new(AtomicU64::new(10_000));
        let stream = open_within(Some(10_000), store.read(digest, range))
            .await
            .unwrap();
        let told = Arc::clone(&limit);
        let mut stream = stream_within(move || Some(told.load(Ordering::Relaxed)), stream);
        let mut read = Vec::new();
        for space in [10_000, 20_000, 1 << 30] {
            limit.store(space, Ordering::Relaxed);
            let chunk = stream.next().await.unwrap().unwrap();
            assert_eq!(chunk.len() as u64, space.min(1 << 20));
            read.extend_from_slice(&chunk);
        }
        read.extend_from_slice(&collect(stream).await.unwrap());
        assert!(read == expected, "the blob is whole");
    }
}
