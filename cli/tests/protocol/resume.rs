//! Uploads that continue after their connection broke.

use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::google::bytestream::{QueryWriteStatusRequest, QueryWriteStatusResponse, WriteRequest};
use bitzel_proto::{Digest, DigestFunction};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::messages::noise;
use super::server::Server;

const MIB: u64 = 1 << 20;

/// Blob that is generated while it is sent. Each of its MiB is different.
struct Blob {
    base: Vec<u8>,
    mebibytes: u64,
}

impl Blob {
    fn new(mebibytes: u64) -> Self {
        Self {
            base: noise(1, 1 << 20),
            mebibytes,
        }
    }

    fn piece(&self, number: u64) -> Vec<u8> {
        let mut piece = self.base.clone();
        piece[..8].copy_from_slice(&number.to_le_bytes());
        piece
    }

    fn digest(&self) -> Digest {
        let mut hasher = DigestFunction::Sha256.hasher();
        for number in 0..self.mebibytes {
            hasher.update(&self.piece(number));
        }
        hasher.finish()
    }

    /// Request with the bytes from `offset` to the end of their MiB.
    fn request(&self, name: &str, offset: u64) -> WriteRequest {
        let number = offset / MIB;
        let within = usize::try_from(offset % MIB).unwrap();
        WriteRequest {
            resource_name: name.to_owned(),
            write_offset: offset.try_into().unwrap(),
            finish_write: number + 1 == self.mebibytes,
            data: self.piece(number)[within..].to_vec(),
        }
    }

    /// All requests from `offset` on.
    fn requests(&self, name: &str, offset: u64) -> impl Iterator<Item = WriteRequest> + Send + 'static {
        let blob = Self {
            base: self.base.clone(),
            mebibytes: self.mebibytes,
        };
        let (name, mut offset) = (name.to_owned(), offset);
        std::iter::from_fn(move || {
            (offset < blob.mebibytes * MIB).then(|| {
                let request = blob.request(&name, offset);
                offset += request.data.len() as u64;
                request
            })
        })
    }
}

async fn query(server: &Server, name: &str) -> Result<QueryWriteStatusResponse, Status> {
    let request = QueryWriteStatusRequest {
        resource_name: name.to_owned(),
    };
    let status = server.streams().query_write_status(request).await?;
    Ok(status.into_inner())
}

/// Sends the blob from `offset` to `until` on a connection of its own, waits until the server has it, and breaks the
/// connection without ending the call. Returns the number of bytes that the server has.
async fn break_off(server: &Server, blob: &Blob, name: &str, offset: u64, until: u64) -> u64 {
    let client = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let client = client.unwrap();
    let (sender, receiver) = mpsc::channel(1);
    let endpoint = server.endpoint();
    client.spawn(async move {
        let channel = endpoint.connect().await.unwrap();
        let call = ByteStreamClient::new(channel)
            .write(ReceiverStream::new(receiver))
            .await;
        panic!("the call ended although its requests go on: {call:?}");
    });
    for request in blob.requests(name, offset) {
        if u64::try_from(request.write_offset).unwrap() >= until {
            break;
        }
        sender.send(request).await.unwrap();
    }
    let mut committed = 0;
    super::server::until(async || {
        let status = query(server, name).await;
        committed = status
            .map_or(0, |status| status.committed_size)
            .try_into()
            .unwrap();
        committed >= until
    })
    .await;
    // The sockets of a runtime are closed with it.
    client.shutdown_background();
    drop(sender);
    committed
}

/// Continues from `offset` on the connection of the server's other calls.
async fn resume(server: &Server, blob: &Blob, name: &str, offset: u64) -> i64 {
    let write = || async {
        let requests = tokio_stream::iter(blob.requests(name, offset));
        server.streams().write(requests).await
    };
    not_aborted(write).await.unwrap().into_inner().committed_size
}

/// Repeats a call until the server has noticed the loss of the upload's last connection.
async fn not_aborted<T, Call: Future<Output = Result<T, Status>>>(
    call: impl Fn() -> Call,
) -> Result<T, Status> {
    let mut answer = None;
    super::server::until(async || {
        let latest = call().await;
        let aborted = matches!(&latest, Err(status) if status.code() == Code::Aborted);
        answer = Some(latest);
        !aborted
    })
    .await;
    answer.unwrap()
}

/// Breaks an upload twice, continues each time at the server's offset, and reads the blob back. By hand with more:
/// `BITZEL_TEST_UPLOAD_MIB=2048 cargo test -p bitzel --test runner resumes_a_large_upload -- --nocapture`
#[tokio::test(flavor = "multi_thread")]
async fn resumes_a_large_upload_in_little_memory() {
    let wanted = std::env::var("BITZEL_TEST_UPLOAD_MIB");
    let mebibytes = wanted.map_or(64, |wanted| wanted.parse().unwrap());
    let server = Server::cache().await;
    let blob = Blob::new(mebibytes);
    let digest = blob.digest();
    let name = format!("team/one/uploads/7d8a1b3e/blobs/{digest}");
    server
        .put(DigestFunction::Sha256, b"whatever a first request needs")
        .await;
    let before = server.peak_memory();

    let first = break_off(&server, &blob, &name, 0, mebibytes / 4 * MIB).await;
    assert!(first < mebibytes * MIB);
    let second = break_off_when_free(&server, &blob, &name, first, mebibytes / 2 * MIB).await;
    let status = query(&server, &name).await.unwrap();
    assert_eq!(
        (status.committed_size, status.complete),
        (second.try_into().unwrap(), false)
    );
    assert_eq!(server.missing(&[digest]).await, [digest]);
    let committed = resume(&server, &blob, &name, second).await;
    assert_eq!(u64::try_from(committed), Ok(mebibytes * MIB));
    let status = query(&server, &name).await.unwrap();
    assert_eq!((status.committed_size, status.complete), (committed, true));

    let mut hasher = DigestFunction::Sha256.hasher();
    server
        .read_into(&format!("team/one/blobs/{digest}"), |data| hasher.update(data))
        .await;
    assert_eq!(hasher.finish(), digest);
    let after = server.peak_memory();
    println!(
        "{mebibytes} MiB broken off at {} and {} MiB: the server had {} MiB before and {} MiB at most",
        first / MIB,
        second / MIB,
        before / MIB,
        after / MIB
    );
    assert!(after - before < 48 * MIB, "{} MiB more", (after - before) / MIB);
}

/// As [`break_off`], after the server has noticed that the last connection is gone.
async fn break_off_when_free(server: &Server, blob: &Blob, name: &str, offset: u64, until: u64) -> u64 {
    let mut probe = blob.request(name, offset);
    probe.data.clear();
    probe.finish_write = false;
    not_aborted(|| server.write(vec![probe.clone()])).await.unwrap();
    break_off(server, blob, name, offset, until).await
}

#[tokio::test(flavor = "multi_thread")]
async fn resumes_an_upload_only_at_its_offset() {
    let server = Server::cache().await;
    let blob = Blob::new(4);
    let name = format!("uploads/u/blobs/{}", blob.digest());
    let status = query(&server, &name).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let stands = break_off(&server, &blob, &name, 0, 2 * MIB).await;
    for wrong in [stands - MIB, stands + MIB] {
        let request = blob.request(&name, wrong);
        let status = not_aborted(|| server.write(vec![request.clone()]))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("ask with QueryWriteStatus"), "{status}");
    }
    // Another name is another upload.
    let other = name.replace("uploads/u/", "uploads/v/");
    let status = query(&server, &other).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert_eq!(resume(&server, &blob, &name, stands).await, 4 << 20);
}
