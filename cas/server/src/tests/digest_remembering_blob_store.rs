use std::sync::Arc;

use bitzel_cas::blob_store::{BlobRange, one_chunk};
use bitzel_cas::testing::{model, sha256};
use bitzel_cas::{BlobStore as _, DigestRememberingBlobStore, MemoryBlobStore, RemoteBlobStore};
use bitzel_proto::InstanceName;
use bitzel_rpc::endpoint::connect;
use proptest::prelude::*;

use crate::services::tests::TestServer;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn behaves_like_every_store(steps in prop::collection::vec(model::step(), 1..30)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let open = async |open: Option<DigestRememberingBlobStore>| {
            open.unwrap_or_else(|| DigestRememberingBlobStore::new(Arc::new(MemoryBlobStore::default())))
        };
        runtime.block_on(model::run(steps, open));
    }
}

#[tokio::test]
async fn resolves_a_remote_blob_by_hash_once_it_was_seen() {
    let server = TestServer::start().await;
    let channel = connect(&server.endpoint).await.unwrap();
    let remote = RemoteBlobStore::connect(channel, InstanceName::default())
        .await
        .unwrap();
    let store = DigestRememberingBlobStore::new(Arc::new(remote));
    let resolve = async |blob: &[u8]| {
        let digest = sha256(blob);
        let found = store.resolve(digest.function(), *digest.hash()).await.unwrap();
        assert!(found.is_none_or(|found| found == digest));
        found.is_some()
    };
    for blob in [&b"read"[..], b"asked for", b"in a batch", b"never seen"] {
        server.add(blob).await;
        assert!(!resolve(blob).await);
    }
    drop(store.read(sha256(b"read"), BlobRange::default()).await.unwrap());
    let asked = [sha256(b"asked for"), sha256(b"absent")];
    assert_eq!(store.find_missing(&asked).await.unwrap(), [sha256(b"absent")]);
    store
        .read_batch(&[sha256(b"in a batch"), sha256(b"absent, too")])
        .await;
    store
        .write(sha256(b"written"), one_chunk("written".into()))
        .await
        .unwrap();
    store
        .write_batch(vec![(sha256(b"in one go"), "in one go".into())])
        .await;
    for blob in [
        &b"read"[..],
        b"asked for",
        b"in a batch",
        b"written",
        b"in one go",
    ] {
        assert!(resolve(blob).await, "{}", String::from_utf8_lossy(blob));
    }
    for blob in [&b"never seen"[..], b"absent", b"absent, too"] {
        assert!(!resolve(blob).await, "{}", String::from_utf8_lossy(blob));
    }
}
