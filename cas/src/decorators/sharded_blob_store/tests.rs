use proptest::prelude::*;

use super::*;
use crate::blob_store::one_chunk;
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::failing_blob_store::FailingBlobStore;
use crate::testing::model;
use crate::testing::sha256;

fn sharded(stores: &[Arc<MemoryBlobStore>]) -> ShardedBlobStore {
    let shard = |(index, store): (usize, &Arc<MemoryBlobStore>)| Shard {
        name: format!("shard-{index}"),
        weight: 1,
        store: Arc::clone(store) as Arc<dyn BlobStore>,
    };
    ShardedBlobStore::new(stores.iter().enumerate().map(shard).collect()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let stores = [(); 3].map(|()| Arc::default());
        let open = async |_: Option<ShardedBlobStore>| sharded(&stores);
        runtime.block_on(model::run(steps, open));
    }
}

#[tokio::test]
async fn every_blob_is_on_one_shard_and_all_shards_are_used() {
    let stores = [(); 3].map(|()| Arc::<MemoryBlobStore>::default());
    let store = sharded(&stores);
    let blobs: Vec<(Digest, Bytes)> = (0..100_u8)
        .map(|number| (sha256(&[number]), Bytes::copy_from_slice(&[number])))
        .collect();
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    assert!(store.write_batch(blobs).await.iter().all(Result::is_ok));
    let mut held = Vec::new();
    for inner in &stores {
        held.push(100 - inner.find_missing(&digests).await.unwrap().len());
    }
    assert_eq!(held.iter().sum::<usize>(), 100);
    assert!(held.iter().all(|count| *count > 15), "{held:?}");
}

#[tokio::test]
async fn a_shard_that_is_down_fails_its_blobs_and_no_others() {
    let good = Arc::new(MemoryBlobStore::default());
    let shard = |name: &str, store: Arc<dyn BlobStore>| Shard {
        name: name.into(),
        weight: 1,
        store,
    };
    let shards = vec![shard("good", good), shard("bad", Arc::new(FailingBlobStore))];
    let store = ShardedBlobStore::new(shards).unwrap();
    let blobs: Vec<(Digest, Bytes)> = (0..50_u8)
        .map(|number| (sha256(&[number]), Bytes::copy_from_slice(&[number])))
        .collect();
    let results = store.write_batch(blobs.clone()).await;
    for ((digest, blob), result) in blobs.iter().zip(results) {
        let to_bad = store.rendezvous.shard_of(*digest) == 1;
        assert_eq!(result.is_err(), to_bad);
        assert_eq!(
            store.write(*digest, one_chunk(blob.clone())).await.is_err(),
            to_bad
        );
        assert_eq!(store.find_missing(&[*digest]).await.is_err(), to_bad);
    }
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    assert!(store.find_missing(&digests).await.is_err());
    for (digest, result) in digests.iter().zip(store.read_batch(&digests).await) {
        assert_eq!(result.is_err(), store.rendezvous.shard_of(*digest) == 1);
    }
}

#[tokio::test]
async fn a_hash_is_looked_up_on_its_shard() {
    let stores = [(); 3].map(|()| Arc::<MemoryBlobStore>::default());
    let store = sharded(&stores);
    for number in 0..20_u8 {
        let digest = sha256(&[number]);
        let blob = Bytes::copy_from_slice(&[number]);
        store.write(digest, one_chunk(blob)).await.unwrap();
        let found = store.resolve(digest.function(), *digest.hash()).await.unwrap();
        assert_eq!(found, Some(digest));
    }
}
