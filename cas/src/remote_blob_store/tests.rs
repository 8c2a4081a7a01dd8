use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::blob_store::{collect, model, one_chunk, read_whole};
use crate::services::tests::{TestServer, noise, sha256};

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
    let limit = usize::try_from(crate::services::MAX_BATCH_TOTAL_SIZE).unwrap();
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
async fn a_write_of_a_blob_that_exists_does_not_wait_for_its_source() {
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
        let channel = crate::endpoint::connect(&server.endpoint).await.unwrap();
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

/// Passes bytes on to a server, and cuts connections as it is told.
struct CuttingProxy {
    endpoint: String,
    /// For each next connection after how many bytes to the server, and from it, it is cut.
    cuts: Arc<Mutex<Vec<(usize, usize)>>>,
    sent: Arc<AtomicUsize>,
    received: Arc<AtomicUsize>,
    _proxy: AbortOnDropHandle<()>,
}

const NEVER: usize = usize::MAX;

impl CuttingProxy {
    async fn start(server: &TestServer, cuts: &[(usize, usize)]) -> Self {
        let server = server.endpoint.strip_prefix("grpc://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("grpc://{}", listener.local_addr().unwrap());
        let cuts = Arc::new(Mutex::new(cuts.iter().rev().copied().collect::<Vec<_>>()));
        let (sent, received) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (next, up_count, down_count) = (Arc::clone(&cuts), Arc::clone(&sent), Arc::clone(&received));
        let proxy = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (up, down) = next.lock().pop().unwrap_or((NEVER, NEVER));
                let server = TcpStream::connect(&server).await.unwrap();
                let (up_count, down_count) = (Arc::clone(&up_count), Arc::clone(&down_count));
                open.spawn(async move {
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    // The end of one direction is the end of both.
                    tokio::select! {
                        () = pass(from_client, to_server, up, &up_count) => {}
                        () = pass(from_server, to_client, down, &down_count) => {}
                    }
                });
            }
        });
        Self {
            endpoint,
            cuts,
            sent,
            received,
            _proxy: AbortOnDropHandle::new(proxy),
        }
    }

    async fn connect(&self, compression: bool) -> RemoteBlobStore {
        let channel = crate::endpoint::connect(&self.endpoint).await.unwrap();
        let options = RemoteBlobStoreOptions { compression };
        RemoteBlobStore::connect_with(channel, InstanceName::default(), options)
            .await
            .unwrap()
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    mut left: usize,
    count: &AtomicUsize,
) {
    let mut buffer = vec![0; 64 << 10];
    while left > 0 {
        let most = buffer.len().min(left);
        let Ok(size @ 1..) = from.read(&mut buffer[..most]).await else {
            return;
        };
        if to.write_all(&buffer[..size]).await.is_err() {
            return;
        }
        left = left.saturating_sub(size);
        count.fetch_add(size, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn an_upload_whose_connection_breaks_goes_on_from_what_the_server_has() {
    for compression in [false, true] {
        let server = TestServer::start().await;
        let proxy = CuttingProxy::start(&server, &[(12 << 20, NEVER)]).await;
        let store = proxy.connect(compression).await;
        let blob = Bytes::from(noise(1, 24 << 20));
        let digest = sha256(&blob);
        let chunks: Vec<Result<Bytes, Error>> = blob
            .chunks(1 << 20)
            .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
            .collect();
        store
            .write(digest, futures::stream::iter(chunks).boxed())
            .await
            .unwrap();
        assert!(proxy.cuts.lock().is_empty());
        assert_eq!(server.store.find_missing(&[digest]).await.unwrap(), []);
        let sent = proxy.sent.load(Ordering::SeqCst);
        assert!(sent < (24 + 12) << 20, "{sent} bytes: from the beginning");
    }
}

#[tokio::test]
async fn a_read_whose_connection_breaks_goes_on_where_it_broke() {
    for compression in [false, true] {
        let server = TestServer::start().await;
        let blob = noise(1, 24 << 20);
        let digest = server.add(&blob).await;
        let proxy = CuttingProxy::start(&server, &[(NEVER, 12 << 20)]).await;
        let store = proxy.connect(compression).await;
        assert!(read_whole(&store, digest).await.unwrap() == blob);
        assert!(proxy.cuts.lock().is_empty());
        let received = proxy.received.load(Ordering::SeqCst);
        assert!(received < (24 + 12) << 20, "{received} bytes: from the beginning");
    }
}

#[tokio::test]
async fn calls_on_a_connection_that_is_dead_are_made_again() {
    let server = TestServer::start().await;
    let digest = server.add(b"there").await;
    let proxy = CuttingProxy::start(&server, &[]).await;
    for _ in 0..3 {
        // Enough for the capabilities and hardly more.
        proxy.cuts.lock().push((2000, NEVER));
        let store = proxy.connect(false).await;
        let many: Vec<Digest> = (0..100_u8).map(|number| sha256(&[number])).collect();
        assert_eq!(store.find_missing(&many).await.unwrap().len(), 100);
        assert_eq!(store.read_batch(&[digest]).await.remove(0).unwrap(), "there");
    }
}

/// Has no room for the first writes.
struct CrowdedBlobStore {
    inner: crate::MemoryBlobStore,
    refusals: AtomicUsize,
}

#[async_trait]
impl BlobStore for CrowdedBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.inner.find_missing(digests).await
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        self.inner.read(digest, range).await
    }

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
        inner: crate::MemoryBlobStore::default(),
        refusals: AtomicUsize::new(refusals),
    })
}

#[tokio::test]
async fn a_server_without_room_for_a_moment_is_asked_again_and_one_without_is_an_error() {
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
async fn a_server_without_capabilities_gets_what_every_server_understands() {
    let inner: Arc<dyn BlobStore> = Arc::new(crate::MemoryBlobStore::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("grpc://{}", listener.local_addr().unwrap());
    let storage = crate::services::ContentAddressableStorageService::new(Arc::clone(&inner));
    let streams = crate::services::ByteStreamService::new(inner);
    let server = crate::endpoint::server()
        .add_service(storage.into_server())
        .add_service(streams.into_server())
        .serve_with_incoming(TcpListenerStream::new(listener));
    let _server = AbortOnDropHandle::new(tokio::spawn(async move { server.await.unwrap() }));
    let channel = crate::endpoint::connect(&endpoint).await.unwrap();
    let options = RemoteBlobStoreOptions { compression: true };
    let store = RemoteBlobStore::connect_with(channel, InstanceName::default(), options)
        .await
        .unwrap();
    assert_eq!(store.abilities, Abilities::default());
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

#[tokio::test]
async fn compression_saves_bytes_in_streams_and_batches() {
    let server = TestServer::start().await;
    let proxy = CuttingProxy::start(&server, &[]).await;
    let store = proxy.connect(true).await;
    let blobs = [50_000, 5 << 20].map(|size| Bytes::from(vec![7; size]));
    let named = blobs.clone().map(|blob| (sha256(&blob), blob));
    let digests = named.clone().map(|(digest, _)| digest);
    for result in store.write_batch(named.to_vec()).await {
        result.unwrap();
    }
    let read: Vec<Bytes> = store
        .read_batch(&digests)
        .await
        .into_iter()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(read == blobs);
    let bytes = proxy.sent.load(Ordering::SeqCst) + proxy.received.load(Ordering::SeqCst);
    assert!(bytes < 20_000, "{bytes} bytes for two times 5 MiB of sevens");
}
