mod broken_connections;
mod foreign_servers;

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_cas::blob_store::{BlobRange, BlobStream, collect, one_chunk, read_whole};
use bitzel_cas::testing::{model, noise, sha256};
use bitzel_cas::{BlobStore, Error, Lease, RemoteBlobStore, RemoteBlobStoreOptions};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;

use crate::services::tests::TestServer;

async fn connect(server: &TestServer) -> RemoteBlobStore {
    let instance = InstanceName::new("some/instance").unwrap();
    RemoteBlobStore::connect(server.channel.clone(), instance)
        .await
        .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn behaves_like_every_store_through_a_real_server(
        steps in prop::collection::vec(model::step(), 1..30),
        compression in prop::bool::ANY,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = TestServer::start_on_socket().await;
            let options = RemoteBlobStoreOptions { compression };
            let reconnect = async |_: Option<RemoteBlobStore>| {
                let (channel, instance) = (server.channel.clone(), InstanceName::default());
                RemoteBlobStore::connect_with(channel, instance, options).await.unwrap()
            };
            model::run(steps, reconnect).await;
        });
    }
}

#[tokio::test]
async fn blobs_of_every_size_make_the_round_trip() {
    let server = TestServer::start().await;
    let store = connect(&server).await;
    let limit = usize::try_from(bitzel_proto::limits::MAX_BATCH_TOTAL_SIZE).unwrap();
    let sizes = [0, 1, 1000, 1 << 20, limit - 128, limit - 127, limit, 9 << 20];
    let blobs: Vec<Bytes> = (0..)
        .zip(sizes)
        .map(|(seed, size)| noise(seed, size).into())
        .collect();
    let named: Vec<(Digest, Bytes)> = blobs.iter().map(|blob| (sha256(blob), blob.clone())).collect();
    let digests: Vec<Digest> = named.iter().map(|(digest, _)| *digest).collect();
    assert_eq!(store.find_missing(&digests).await.unwrap().len(), sizes.len() - 1);
    for result in store.write_batch(named).await {
        result.unwrap();
    }
    assert_eq!(store.find_missing(&digests).await.unwrap(), []);
    let read = store.read_batch(&digests).await;
    for ((blob, digest), read) in blobs.iter().zip(&digests).zip(read) {
        assert!(read.unwrap() == blob);
        assert!(read_whole(&store, *digest).await.unwrap() == blob);
    }
}

#[tokio::test]
async fn many_digests_and_blobs_go_in_several_requests() {
    let server = TestServer::start().await;
    let store = connect(&server).await;
    let blobs: Vec<(Digest, Bytes)> = (0..40_000_u32)
        .map(|number| {
            let blob = Bytes::copy_from_slice(&number.to_le_bytes());
            (sha256(&blob), blob)
        })
        .collect();
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    // More than fits into one message in any of the three calls.
    assert_eq!(store.find_missing(&digests).await.unwrap().len(), 40_000);
    assert!(store.write_batch(blobs.clone()).await.iter().all(Result::is_ok));
    let absent = sha256(b"absent");
    let some: Vec<Digest> = digests.iter().copied().chain([absent, absent]).collect();
    assert_eq!(store.find_missing(&some).await.unwrap(), [absent]);
    let read = store.read_batch(&digests).await;
    assert!(
        read.into_iter()
            .zip(blobs)
            .all(|(read, (_, blob))| read.unwrap() == blob)
    );
}

/// Serves wrong bytes for everything.
struct LyingBlobStore;

#[async_trait]
impl BlobStore for LyingBlobStore {
    async fn find_missing(&self, _: &[Digest]) -> Result<Vec<Digest>, Error> {
        Ok(vec![])
    }

    async fn read(&self, digest: Digest, _: BlobRange) -> Result<BlobStream, Error> {
        let size = usize::try_from(digest.size_bytes()).unwrap();
        Ok(one_chunk(vec![b'?'; size].into()))
    }

    async fn write(&self, _: Digest, _: BlobStream) -> Result<(), Error> {
        Ok(())
    }

    async fn lease(&self, _: &[Digest]) -> Result<Lease, Error> {
        Ok(Lease::none())
    }

    async fn resolve(&self, _: DigestFunction, _: [u8; 32]) -> Result<Option<Digest>, Error> {
        Ok(None)
    }
}

#[tokio::test]
async fn wrong_bytes_from_a_server_are_noticed() {
    let server = TestServer::start_with(Arc::new(LyingBlobStore)).await;
    let store = connect(&server).await;
    let small = sha256(b"small");
    let large = sha256(&noise(1, 5 << 20));
    for result in store.read_batch(&[small, large]).await {
        assert!(matches!(result, Err(Error::DigestMismatch { .. })), "{result:?}");
    }
    let streamed = collect(store.read(large, BlobRange::default()).await.unwrap()).await;
    assert!(matches!(streamed, Err(Error::DigestMismatch { .. })));
}

#[tokio::test]
async fn a_failing_source_is_reported_as_what_it_is() {
    let server = TestServer::start().await;
    let store = connect(&server).await;
    let blob = Bytes::from(noise(1, 3 << 20));
    let digest = sha256(&blob);
    let torn = vec![
        Ok(blob.slice(..2 << 20)),
        Err(Error::InvalidArgument("the disk burnt down".into())),
    ];
    let result = store.write(digest, futures::stream::iter(torn).boxed()).await;
    assert!(
        matches!(&result, Err(Error::InvalidArgument(reason)) if reason == "the disk burnt down"),
        "{result:?}"
    );
    assert_eq!(server.store.find_missing(&[digest]).await.unwrap(), [digest]);
    store.write(digest, one_chunk(blob)).await.unwrap();
}

#[tokio::test]
async fn a_write_of_an_existing_blob_does_not_read_its_source() {
    let server = TestServer::start().await;
    let store = connect(&server).await;
    let blob = noise(1, 4 << 20);
    let digest = server.add(&blob).await;
    let head = one_chunk(Bytes::copy_from_slice(&blob[..1 << 20]));
    store
        .write(digest, head.chain(futures::stream::pending()).boxed())
        .await
        .unwrap();
}

#[test]
fn a_server_that_is_gone_is_an_error_that_says_so() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let servers = runtime();
    let server = servers.block_on(TestServer::start());
    runtime().block_on(async {
        let channel = bitzel_rpc::endpoint::connect(&server.endpoint).await.unwrap();
        let store = RemoteBlobStore::connect(channel, InstanceName::default())
            .await
            .unwrap();
        // Takes the connections along, which dropping the server would leave.
        servers.shutdown_background();
        let error = store.find_missing(&[sha256(b"x")]).await.unwrap_err();
        assert!(matches!(&error, Error::Remote { .. }), "{error:?}");
        let results = store.read_batch(&[sha256(b"x"), sha256(b"y")]).await;
        assert!(
            results
                .iter()
                .all(|result| matches!(result, Err(Error::Remote { .. }))),
            "{results:?}"
        );
    });
}
