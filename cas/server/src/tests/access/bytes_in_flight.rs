//! The limit of bytes in flight, through the layers and the services. There is no network, so that paused time advances
//! only when everything waits for the limit.

use std::convert::Infallible;

use bitzel_access::AccessLayer;
use bitzel_cas::testing::{noise, sha256};
use bitzel_proto::google::bytestream::WriteRequest;
use bitzel_proto::reapi::{self, Directory, DirectoryNode, FindMissingBlobsRequest, GetTreeRequest};
use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer as _, ServiceExt as _};

use super::*;
use crate::services::tests::routes;

/// Call whose request the test sends in pieces.
struct Call {
    sender: mpsc::Sender<Bytes>,
    answer: tokio::task::JoinHandle<Status>,
}

/// All services with stores in memory and a limit of 64 KiB.
struct Limited {
    store: Arc<dyn BlobStore>,
    cache: Arc<dyn ActionCache>,
    limits: LimitsLayer,
}

impl Limited {
    fn new() -> Self {
        Self::within(&Limits {
            bytes_in_flight_per_identity: 64 << 10,
            ..Limits::default()
        })
    }

    fn within(limits: &Limits) -> Self {
        Self {
            store: Arc::new(MemoryBlobStore::default()),
            cache: Arc::new(MemoryActionCache::default()),
            limits: LimitsLayer::new(limits),
        }
    }

    /// Starts a `ByteStream` write.
    fn call(&self) -> Call {
        self.call_method("google.bytestream.ByteStream/Write")
    }

    fn call_method(&self, method: &str) -> Call {
        let (sender, receiver) = mpsc::channel::<Bytes>(1);
        let body = StreamBody::new(
            ReceiverStream::new(receiver).map(|data| Ok::<_, Infallible>(http_body::Frame::data(data))),
        );
        let request = http::Request::post(format!("/{method}"))
            .header("content-type", "application/grpc")
            .body(Body::new(body.map_err(|never| match never {})))
            .unwrap();
        let services = self.limits.layer(routes(&self.store, &self.cache).prepare());
        let services = AccessLayer::open().layer(services);
        let answer = tokio::spawn(async move {
            let response = services.oneshot(request).await.unwrap();
            if let Some(status) = Status::from_header_map(response.headers()) {
                return status;
            }
            let trailers = response.into_body().collect().await.unwrap().trailers().cloned();
            Status::from_header_map(&trailers.unwrap()).unwrap()
        });
        Call { sender, answer }
    }

    async fn has(&self, blob: &[u8]) -> bool {
        let missing = self.store.find_missing(&[sha256(blob)]).await;
        missing.unwrap().is_empty()
    }
}

/// The only message of a complete write.
fn message(blob: &[u8]) -> Bytes {
    let request = WriteRequest {
        resource_name: format!("uploads/u/blobs/{}", sha256(blob)),
        finish_write: true,
        data: blob.to_vec(),
        ..WriteRequest::default()
    };
    framed(&request)
}

fn framed(request: &impl prost::Message) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(request.encoded_len().try_into().unwrap());
    request.encode(&mut framed).unwrap();
    framed.freeze()
}

#[tokio::test(start_paused = true)]
async fn refuses_a_message_after_ten_seconds_at_the_limit() {
    let server = Limited::new();
    let (first, second) = (noise(1, 60 << 10), noise(2, 50 << 10));
    let slow = server.call();
    let whole = message(&first);
    let (begin, rest) = (whole.slice(..1000), whole.slice(1000..));
    slow.sender.send(begin).await.unwrap();
    // The body reserves the bytes of the message in the poll that takes its beginning out of the channel.
    slow.sender.reserve().await.unwrap();

    let started = tokio::time::Instant::now();
    let refused = server.call();
    refused.sender.send(message(&second)).await.unwrap();
    let status = refused.answer.await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 10);
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(
        status.message().contains("hold 64 KiB, which is the limit"),
        "{status}"
    );
    assert!(status.message().contains("try again"), "{status}");
    assert!(!server.has(&second).await);

    // The slow call is not disturbed, and releases its bytes when it ends.
    slow.sender.send(rest).await.unwrap();
    drop(slow.sender);
    assert_eq!(slow.answer.await.unwrap().code(), Code::Ok);
    assert!(server.has(&first).await);
    let again = server.call();
    again.sender.send(message(&second)).await.unwrap();
    drop(again.sender);
    assert_eq!(again.answer.await.unwrap().code(), Code::Ok);
    assert!(server.has(&second).await);
}

#[tokio::test(start_paused = true)]
async fn a_message_waits_while_the_limit_is_reached() {
    let server = Limited::new();
    let (first, second) = (noise(1, 60 << 10), noise(2, 50 << 10));
    let slow = server.call();
    let whole = message(&first);
    slow.sender.send(whole.slice(..1000)).await.unwrap();
    slow.sender.reserve().await.unwrap();
    let waiting = server.call();
    waiting.sender.send(message(&second)).await.unwrap();
    tokio::time::advance(std::time::Duration::from_secs(9)).await;
    assert!(!waiting.answer.is_finished());
    slow.sender.send(whole.slice(1000..)).await.unwrap();
    drop((slow.sender, waiting.sender));
    for answer in [slow.answer, waiting.answer] {
        assert_eq!(answer.await.unwrap().code(), Code::Ok);
    }
    assert!(server.has(&first).await && server.has(&second).await);
}

const CAS: &str = "build.bazel.remote.execution.v2.ContentAddressableStorage";

#[tokio::test(start_paused = true)]
async fn f17_a_message_counts_as_what_it_is_decoded_to() {
    let server = Limited::new();
    let slow = server.call();
    slow.sender
        .send(message(&noise(1, 1000)).slice(..100))
        .await
        .unwrap();
    slow.sender.reserve().await.unwrap();
    // 40 KB, which fit into what is left of 64 KiB, and take more than a MiB.
    let find = FindMissingBlobsRequest {
        blob_digests: vec![reapi::Digest::default(); 20_000],
        ..FindMissingBlobsRequest::default()
    };
    let refused = server.call_method(&format!("{CAS}/FindMissingBlobs"));
    refused.sender.send(framed(&find)).await.unwrap();
    let status = refused.answer.await.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    // Alone it is taken, and refused for what it says.
    drop(slow);
    let alone = server.call_method(&format!("{CAS}/FindMissingBlobs"));
    alone.sender.send(framed(&find)).await.unwrap();
    drop(alone.sender);
    let status = alone.answer.await.unwrap();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test(start_paused = true)]
async fn f16_a_request_that_does_not_go_on_ends() {
    let server = Limited::new();
    let started = tokio::time::Instant::now();
    for sent in [0, 3, 100] {
        let idle = server.call();
        idle.sender
            .send(message(&noise(1, 1000)).slice(..sent))
            .await
            .unwrap();
        let status = idle.answer.await.unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(status.message().contains("did not go on for 1m"), "{status}");
    }
    assert_eq!(started.elapsed().as_secs(), 180);
}

#[tokio::test(start_paused = true)]
async fn f21_a_request_that_trickles_ends() {
    let server = Limited::within(&Limits::default());
    let started = tokio::time::Instant::now();
    let trickling = server.call();
    let whole = message(&noise(1, 10_000));
    let mut bytes = whole.chunks(1).map(Bytes::copy_from_slice);
    let sending = async {
        while trickling.sender.send(bytes.next().unwrap()).await.is_ok() {
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
    };
    let (status, ()) = tokio::join!(trickling.answer, sending);
    let status = status.unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(
        status.message().contains("less than 1024 bytes a second"),
        "{status}"
    );
    assert!(started.elapsed().as_secs() < 130, "{:?}", started.elapsed());
}

/// A slow line is not refused, however long a request takes.
#[tokio::test(start_paused = true)]
async fn a_request_at_a_low_rate_is_received() {
    let server = Limited::within(&Limits::default());
    let blob = noise(1, 400_000);
    let slow = server.call();
    for piece in message(&blob).chunks(2_000) {
        slow.sender.send(Bytes::copy_from_slice(piece)).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    drop(slow.sender);
    assert_eq!(slow.answer.await.unwrap().code(), Code::Ok);
    assert!(server.has(&blob).await);
}

#[tokio::test(start_paused = true)]
async fn f17_the_directories_that_get_tree_has_seen_count() {
    let node = |number: u32| DirectoryNode {
        name: number.to_string(),
        digest: Some(sha256(&number.to_le_bytes()).to_wire()),
    };
    let root = Directory {
        directories: (0..40_000).map(node).collect(),
        ..Directory::default()
    };
    let root = root.encode_to_vec();
    let request = GetTreeRequest {
        root_digest: Some(sha256(&root).to_wire()),
        ..GetTreeRequest::default()
    };
    // Half of it is for what responses need: 3.5 MiB for a page, 9 for the Directory, and twice 2 for digests.
    for (mebibytes, code) in [(28, Code::ResourceExhausted), (40, Code::Ok)] {
        let server = Limited::within(&Limits {
            response_bytes_per_identity: mebibytes << 20,
            ..Limits::default()
        });
        let written = server
            .store
            .write_batch(vec![(sha256(&root), root.clone().into())])
            .await;
        assert!(written.iter().all(Result::is_ok));
        let call = server.call_method(&format!("{CAS}/GetTree"));
        call.sender.send(framed(&request)).await.unwrap();
        drop(call.sender);
        let status = call.answer.await.unwrap();
        assert_eq!(status.code(), code, "{mebibytes} MiB: {status}");
    }
}

/// Store whose writes wait, like those that wait for another writer of the blob. They read nothing meanwhile.
struct WaitingStore {
    inner: MemoryBlobStore,
    go_on: tokio::sync::Semaphore,
}

#[async_trait::async_trait]
impl BlobStore for WaitingStore {
    bitzel_cas::forward_blob_store!(inner: find_missing, read, lease, resolve, read_batch, write_batch);

    async fn write(
        &self,
        digest: bitzel_proto::Digest,
        blob: bitzel_cas::blob_store::BlobStream,
    ) -> Result<(), bitzel_cas::error::Error> {
        let _turn = self.go_on.acquire().await.unwrap();
        self.inner.write(digest, blob).await
    }
}

#[tokio::test(start_paused = true)]
async fn f23_a_message_in_the_queue_of_a_write_counts() {
    let store = Arc::new(WaitingStore {
        inner: MemoryBlobStore::default(),
        go_on: tokio::sync::Semaphore::new(0),
    });
    let server = Limited {
        store: Arc::<WaitingStore>::clone(&store),
        ..Limited::new()
    };
    let blob = noise(1, 80 << 10);
    let part = |offset: usize, finish_write| {
        framed(&WriteRequest {
            resource_name: format!("uploads/u/blobs/{}", sha256(&blob)),
            write_offset: offset.try_into().unwrap(),
            finish_write,
            data: blob[offset..offset + (40 << 10)].to_vec(),
        })
    };
    let queued = server.call();
    queued.sender.send(part(0, false)).await.unwrap();
    queued.sender.reserve().await.unwrap();
    // It waits for the bytes of the message in the queue, which nobody takes out.
    queued.sender.send(part(40 << 10, true)).await.unwrap();
    let refused = tokio::time::timeout(std::time::Duration::from_hours(1), queued.answer);
    let refused = refused
        .await
        .expect("the message in the queue does not count")
        .unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");

    // The store takes the message, and the bytes are free again.
    store.go_on.add_permits(2);
    let other = server.call();
    other.sender.send(part(0, false)).await.unwrap();
    other.sender.send(part(40 << 10, true)).await.unwrap();
    drop(other.sender);
    assert_eq!(other.answer.await.unwrap().code(), Code::Ok);
    assert!(server.has(&blob).await);
}
