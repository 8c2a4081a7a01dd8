use proptest::prelude::*;

use super::*;
use crate::blob_store::{collect, one_chunk, read_whole};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::failing_blob_store::SwitchedBlobStore;
use crate::testing::model;
use crate::testing::{noise, sha256};

struct Mirror {
    memories: [Arc<MemoryBlobStore>; 2],
    switches: [Arc<SwitchedBlobStore>; 2],
    store: MirroredBlobStore,
}

fn mirror(one_side_down: OneSideDown) -> Mirror {
    let memories = [(); 2].map(|()| Arc::<MemoryBlobStore>::default());
    let switches = memories
        .each_ref()
        .map(|memory| SwitchedBlobStore::new(Arc::clone(memory) as Arc<dyn BlobStore>));
    let store = MirroredBlobStore::new(
        Arc::clone(&switches[0]) as Arc<dyn BlobStore>,
        Arc::clone(&switches[1]) as Arc<dyn BlobStore>,
        one_side_down,
    );
    Mirror {
        memories,
        switches,
        store,
    }
}

impl Mirror {
    async fn has(&self, side: usize, digest: Digest) -> bool {
        self.memories[side]
            .find_missing(&[digest])
            .await
            .unwrap()
            .is_empty()
    }
}

/// Two blobs, of which each side is the first choice for one.
fn blobs() -> [(Digest, Bytes); 2] {
    let of_side = |side: usize| {
        let blobs = (0..).map(|seed| Bytes::from(noise(seed, 5000)));
        let mut named = blobs.map(|blob| (sha256(&blob), blob));
        named
            .find(|(digest, _)| MirroredBlobStore::first(*digest) == side)
            .unwrap()
    };
    [of_side(0), of_side(1)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let open = async |open: Option<MirroredBlobStore>| {
            open.unwrap_or_else(|| mirror(OneSideDown::Refuse).store)
        };
        runtime.block_on(model::run(steps, open));
    }
}

#[tokio::test]
async fn writes_go_to_both_sides() {
    let mirror = mirror(OneSideDown::Refuse);
    let [(one, blob_one), (two, blob_two)] = blobs();
    mirror.store.write(one, one_chunk(blob_one)).await.unwrap();
    mirror
        .store
        .write_batch(vec![(two, blob_two)])
        .await
        .remove(0)
        .unwrap();
    for side in [0, 1] {
        assert!(mirror.has(side, one).await && mirror.has(side, two).await);
    }
}

#[tokio::test]
async fn a_read_repairs_the_side_that_lacks_the_blob() {
    let mirror = mirror(OneSideDown::Refuse);
    for (side, (digest, blob)) in blobs().into_iter().enumerate() {
        mirror.store.write(digest, one_chunk(blob.clone())).await.unwrap();
        mirror.memories[side].remove(digest);
        assert!(read_whole(&mirror.store, digest).await.unwrap() == blob);
        assert!(mirror.has(side, digest).await);
        mirror.memories[side].remove(digest);
        assert!(mirror.store.read_batch(&[digest]).await.remove(0).unwrap() == blob);
        assert!(mirror.has(side, digest).await);
    }
}

#[tokio::test]
async fn find_missing_repairs_the_side_that_lacks_a_blob() {
    let mirror = mirror(OneSideDown::Refuse);
    let [(one, blob_one), (two, blob_two)] = blobs();
    let nowhere = sha256(b"nowhere");
    mirror.memories[0].write(one, one_chunk(blob_one)).await.unwrap();
    mirror.memories[1].write(two, one_chunk(blob_two)).await.unwrap();
    let missing = mirror.store.find_missing(&[one, nowhere, two]).await.unwrap();
    assert_eq!(missing, [nowhere]);
    mirror.store.repaired().await;
    assert!(mirror.has(1, one).await && mirror.has(0, two).await);
}

#[tokio::test]
async fn one_side_down_refuses_writes_unless_it_may_degrade() {
    for policy in [OneSideDown::Refuse, OneSideDown::Degrade] {
        for down in [0, 1] {
            let mirror = mirror(policy);
            let [(there, blob_there), (new, blob_new)] = blobs();
            mirror
                .store
                .write(there, one_chunk(blob_there.clone()))
                .await
                .unwrap();
            mirror.switches[down].set_down(true);
            // Reads work in any case, whichever side is the first choice.
            assert!(read_whole(&mirror.store, there).await.unwrap() == blob_there);
            assert!(mirror.store.read_batch(&[there]).await.remove(0).unwrap() == blob_there);
            let degrades = policy == OneSideDown::Degrade;
            let written = mirror.store.write(new, one_chunk(blob_new.clone())).await;
            assert_eq!(written.is_ok(), degrades, "{written:?}");
            let written = mirror.store.write_batch(vec![(new, blob_new)]).await.remove(0);
            assert_eq!(written.is_ok(), degrades, "{written:?}");
            let found = mirror.store.find_missing(&[there]).await;
            assert_eq!(found.is_ok(), degrades, "{found:?}");
            // A blob that may be on the side that is down is not said to be missing by a read.
            let unknown = read_whole(&mirror.store, sha256(b"unknown")).await;
            assert!(matches!(unknown, Err(Error::BackEnd { .. })), "{unknown:?}");
            mirror.switches[down].set_down(false);
            if degrades {
                mirror.store.find_missing(&[new]).await.unwrap();
                mirror.store.repaired().await;
                assert!(mirror.has(down, new).await);
            }
        }
    }
}

#[tokio::test]
async fn with_both_sides_down_everything_fails() {
    let mirror = mirror(OneSideDown::Degrade);
    let [(digest, blob), _] = blobs();
    for switch in &mirror.switches {
        switch.set_down(true);
    }
    assert!(mirror.store.write(digest, one_chunk(blob)).await.is_err());
    assert!(mirror.store.find_missing(&[digest]).await.is_err());
    assert!(read_whole(&mirror.store, digest).await.is_err());
}

#[tokio::test]
async fn a_torn_source_is_stored_on_neither_side() {
    let mirror = mirror(OneSideDown::Degrade);
    let [(digest, blob), _] = blobs();
    let torn = vec![Ok(blob.slice(..1000)), Err(Error::InvalidArgument("torn".into()))];
    let error = mirror
        .store
        .write(digest, Box::pin(futures::stream::iter(torn)))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    assert!(!mirror.has(0, digest).await && !mirror.has(1, digest).await);
}

#[tokio::test]
async fn a_side_that_dies_during_a_read_leaves_no_partial_copy() {
    let mirror = mirror(OneSideDown::Refuse);
    let [(digest, blob), _] = blobs();
    mirror.memories[1].write(digest, one_chunk(blob)).await.unwrap();
    mirror.switches[1].break_streams();
    let stream = mirror.store.read(digest, BlobRange::default()).await.unwrap();
    assert!(matches!(collect(stream).await, Err(Error::BackEnd { .. })));
    assert!(!mirror.has(0, digest).await);
}

#[tokio::test]
async fn a_hash_is_looked_up_on_either_side() {
    let mirror = mirror(OneSideDown::Refuse);
    let resolve = async |digest: Digest| mirror.store.resolve(digest.function(), *digest.hash()).await;
    for (digest, blob) in blobs() {
        assert_eq!(resolve(digest).await.unwrap(), None);
        mirror.memories[1].write(digest, one_chunk(blob)).await.unwrap();
        assert_eq!(resolve(digest).await.unwrap(), Some(digest));
        mirror.switches[0].set_down(true);
        assert_eq!(resolve(digest).await.unwrap(), Some(digest));
        // The side that is down may have it.
        assert!(resolve(sha256(b"nowhere")).await.is_err());
        mirror.switches[0].set_down(false);
    }
}
