//! Transfers over connections that break.

use std::sync::atomic::{AtomicUsize, Ordering};

use bitzel_cas::{MemoryBlobStore, TieredBlobStore};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// Proxy that cuts connections after a number of bytes.
struct CuttingProxy {
    endpoint: String,
    /// Bytes to the server and from it after which each of the next connections is cut.
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
        let channel = bitzel_rpc::endpoint::connect(&self.endpoint).await.unwrap();
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
async fn resumes_a_broken_upload_at_the_committed_size() {
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

#[tokio::test]
async fn an_upload_to_a_dying_server_fails_and_leaves_nothing() {
    let server = TestServer::start().await;
    let digest = server.add(&noise(1, 24 << 20)).await;
    let proxy = CuttingProxy::start(&server, &[(NEVER, 1 << 20); 20]).await;
    let fast = Arc::new(MemoryBlobStore::default());
    let store = TieredBlobStore::write_through(Arc::clone(&fast) as _, Arc::new(proxy.connect(false).await));
    let error = read_whole(&store, digest).await.unwrap_err();
    assert!(matches!(error, Error::Remote { .. }), "{error:?}");
    assert_eq!(fast.find_missing(&[digest]).await.unwrap(), [digest]);
}
