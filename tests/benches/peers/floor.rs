//! Floors: upper limits of the machine itself, measured with less work than any server has.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::process::Command;
use std::time::{Duration, Instant};

use bitzel_proto::google::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use bitzel_proto::google::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use crate::actions;
use crate::client::Client;
use crate::measured_server::{self, directory_on_disk};
use crate::measurement::Measurement;
use crate::streams::{self, Content, median};

/// A limit and the names of its parts.
pub(crate) struct Floor {
    pub(crate) reference: &'static str,
    pub(crate) measurement: Measurement,
}

/// `ByteStream` service that drops written data and sends data from memory.
struct RawByteStream(Content);

#[tonic::async_trait]
impl ByteStream for RawByteStream {
    type ReadStream = Pin<Box<dyn Stream<Item = Result<ReadResponse, Status>> + Send>>;

    async fn read(&self, _: Request<ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let digest = bitzel_proto::DigestFunction::Sha256.digest(b"");
        let chunks = self
            .0
            .requests(digest)
            .map(|request| ReadResponse { data: request.data });
        Ok(Response::new(Box::pin(tokio_stream::iter(chunks).map(Ok))))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let mut stream = request.into_inner();
        let mut committed_size = 0;
        while let Some(message) = stream.message().await? {
            committed_size += i64::try_from(message.data.len()).unwrap();
        }
        Ok(Response::new(WriteResponse { committed_size }))
    }

    async fn query_write_status(
        &self,
        _: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        Err(Status::unimplemented("not measured"))
    }
}

/// Floor of the streams: SHA-256 of the bytes, then a raw tonic stream of them, then the disk.
pub(crate) async fn streams() -> Vec<Floor> {
    let content = Content::new(1);
    let start = Instant::now();
    let digest = content.digest();
    let hash = start.elapsed();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let service = ByteStreamServer::new(RawByteStream(content.clone())).max_decoding_message_size(64 << 20);
    let server = bitzel_rpc::endpoint::server()
        .add_service(service)
        .serve_with_incoming(TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    let client = Client::connect_to(&url).await;
    let (mut writes, mut reads) = (vec![], vec![]);
    for _ in 0..3 {
        let start = Instant::now();
        streams::write(&client, &content, digest).await;
        writes.push(start.elapsed());
        let start = Instant::now();
        streams::read(&client, digest).await;
        reads.push(start.elapsed());
    }
    server.abort();
    let (disk_writes, disk_reads) = tokio::task::spawn_blocking(move || disk(&content)).await.unwrap();
    let (write, read) = (median(writes), median(reads));
    let (disk_write, disk_read) = (median(disk_writes), median(disk_reads));
    println!(
        "floor: sha256 {hash:?}; raw stream: write {write:?}, read {read:?}; disk: write {disk_write:?}, read {disk_read:?}"
    );
    let reference = "sha256 + raw tonic stream + disk";
    let floor = |name, raw: Duration, disk: Duration| Floor {
        reference,
        measurement: Measurement::rate(name, streams::MEBIBYTES, hash + raw + disk, "MiB/s"),
    };
    vec![
        floor(streams::WRITE_MEASUREMENT, write, disk_write),
        floor(streams::READ_MEASUREMENT, read, disk_read),
    ]
}

/// Times of writing and reading the bytes as a file, through the page cache as in every server. From the second round on
/// they replace older bytes, as in a full store.
fn disk(content: &Content) -> (Vec<Duration>, Vec<Duration>) {
    let directory = directory_on_disk("bench-floor-");
    let path = directory.path().join("blob");
    let (mut writes, mut reads) = (vec![], vec![]);
    for _ in 0..3 {
        measured_server::sync();
        let start = Instant::now();
        let mut file = File::create(&path).unwrap();
        for chunk in content.chunks() {
            file.write_all(chunk).unwrap();
        }
        drop(file);
        writes.push(start.elapsed());
        let start = Instant::now();
        let mut file = File::open(&path).unwrap();
        let mut buffer = vec![0; streams::CHUNK_BYTES];
        while file.read(&mut buffer).unwrap() > 0 {}
        reads.push(start.elapsed());
    }
    (writes, reads)
}

/// Floor of the Actions: plain bubblewrap with `true`, from as many threads as there are processors.
pub(crate) fn sandboxes() -> Floor {
    const RUNS_PER_THREAD: usize = 300;
    let threads = std::thread::available_parallelism().unwrap().get();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                for _ in 0..RUNS_PER_THREAD {
                    let arguments = "--unshare-all --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib \
                                     --symlink usr/lib64 /lib64 --proc /proc --dev /dev --tmpfs /tmp --die-with-parent \
                                     /bin/true";
                    let status = Command::new("bwrap").args(arguments.split_whitespace()).status().unwrap();
                    assert!(status.success());
                }
            });
        }
    });
    Floor {
        reference: "bwrap --unshare-all /bin/true",
        measurement: Measurement::rate(
            actions::CONCURRENT_ACTIONS,
            (RUNS_PER_THREAD * threads) as f64,
            start.elapsed(),
            "1/s",
        ),
    }
}
