//! Servers of other makers, which use the freedom of the API or break it.

use std::sync::atomic::{AtomicUsize, Ordering};

use bitzel_cas::MemoryBlobStore;
use bitzel_proto::google::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use bitzel_proto::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use futures::stream::BoxStream;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::services::{ByteStreamService, ContentAddressableStorageService};

/// Store that is full for the first writes.
struct CrowdedBlobStore {
    inner: MemoryBlobStore,
    refusals: AtomicUsize,
}

#[async_trait]
impl BlobStore for CrowdedBlobStore {
    bitzel_cas::forward_blob_store!(inner: find_missing, read, lease, resolve);

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        let refuse = |left: usize| left.checked_sub(1);
        if self
            .refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse)
            .is_ok()
        {
            let reason = "crowded".into();
            return Err(Error::NoSpace { digest, reason });
        }
        self.inner.write(digest, blob).await
    }
}

fn crowded(refusals: usize) -> Arc<dyn BlobStore> {
    Arc::new(CrowdedBlobStore {
        inner: MemoryBlobStore::default(),
        refusals: AtomicUsize::new(refusals),
    })
}

#[tokio::test]
async fn retries_a_full_server_and_fails_if_it_stays_full() {
    let small: Vec<(Digest, Bytes)> = ["one", "two"]
        .map(|blob| (sha256(blob.as_bytes()), blob.into()))
        .into();
    let large = Bytes::from(noise(1, 5 << 20));
    for (refusals, is_ok) in [(3, true), (1000, false)] {
        let server = TestServer::start_with(crowded(refusals)).await;
        let store = connect(&server).await;
        let written = store.write_batch(small.clone()).await;
        assert_eq!(written.iter().all(Result::is_ok), is_ok, "{written:?}");
    }
    for (refusals, is_ok) in [(3, true), (1000, false)] {
        let server = TestServer::start_with(crowded(refusals)).await;
        let written = connect(&server)
            .await
            .write(sha256(&large), one_chunk(large.clone()))
            .await;
        assert_eq!(written.is_ok(), is_ok, "{written:?}");
    }
}

#[tokio::test]
async fn assumes_the_least_of_a_server_without_capabilities() {
    let inner: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("grpc://{}", listener.local_addr().unwrap());
    let storage = ContentAddressableStorageService::new(Arc::clone(&inner));
    let streams = ByteStreamService::new(inner);
    let server = bitzel_rpc::endpoint::server()
        .add_service(storage.into_server())
        .add_service(streams.into_server())
        .serve_with_incoming(TcpListenerStream::new(listener));
    let _server = AbortOnDropHandle::new(tokio::spawn(async move { server.await.unwrap() }));
    let channel = bitzel_rpc::endpoint::connect(&endpoint).await.unwrap();
    let options = RemoteBlobStoreOptions { compression: true };
    let store = RemoteBlobStore::connect_with(channel, InstanceName::default(), options)
        .await
        .unwrap();
    let blobs = [noise(1, 10), noise(2, 5 << 20)].map(|blob| (sha256(&blob), Bytes::from(blob)));
    for result in store.write_batch(blobs.to_vec()).await {
        result.unwrap();
    }
    for (digest, blob) in &blobs {
        assert!(read_whole(&store, *digest).await.unwrap() == blob);
    }
    // It may take the hash for one of another function.
    let blake3 = DigestFunction::Blake3.digest(b"x");
    let refused = |error: Error| assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
    refused(store.find_missing(&[blake3]).await.unwrap_err());
    refused(store.write(blake3, one_chunk("x".into())).await.unwrap_err());
    refused(store.read(blake3, BlobRange::default()).await.err().unwrap());
    let batch = store
        .write_batch(vec![(blake3, "x".into()), (blobs[0].0, blobs[0].1.clone())])
        .await;
    assert!(batch[0].is_err() && batch[1].is_ok(), "{batch:?}");
    let batch = store.read_batch(&[blake3, blobs[0].0]).await;
    assert!(batch[0].is_err() && batch[1].is_ok(), "{batch:?}");
}

/// Ends reads with a limit below the blob's size as bazel-remote does: with `OUT_OF_RANGE`, before the last bytes.
struct NoReadLimit(ByteStreamService);

#[tonic::async_trait]
impl ByteStream for NoReadLimit {
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        if request.get_ref().read_limit > 0 {
            let end = Err(Status::out_of_range("the blob is longer than the limit"));
            return Ok(Response::new(futures::stream::iter([end]).boxed()));
        }
        Ok(self.0.read(request).await?.map(StreamExt::boxed))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        self.0.write(request).await
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        self.0.query_write_status(request).await
    }
}

#[tokio::test]
async fn a_server_that_takes_no_read_limit_is_asked_without() {
    let inner = Arc::new(MemoryBlobStore::default());
    let blob = Bytes::from(noise(1, 3 << 20));
    let digest = sha256(&blob);
    inner.write(digest, one_chunk(blob.clone())).await.unwrap();
    let streams = ByteStreamServer::new(NoReadLimit(ByteStreamService::new(inner)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("grpc://{}", listener.local_addr().unwrap());
    let server = bitzel_rpc::endpoint::server()
        .add_service(streams)
        .serve_with_incoming(TcpListenerStream::new(listener));
    let _server = AbortOnDropHandle::new(tokio::spawn(async move { server.await.unwrap() }));
    let channel = bitzel_rpc::endpoint::connect(&endpoint).await.unwrap();
    let store = RemoteBlobStore::connect(channel, InstanceName::default())
        .await
        .unwrap();
    for (offset, limit) in [(0, 5), (1_000_001, 1_500_000), (3_000_000, 1 << 20)] {
        let range = BlobRange {
            offset,
            limit: Some(limit),
        };
        let read = collect(store.read(digest, range).await.unwrap()).await.unwrap();
        let start = usize::try_from(offset).unwrap();
        let end = blob.len().min(start + usize::try_from(limit).unwrap());
        assert!(read == blob[start..end]);
    }
}
