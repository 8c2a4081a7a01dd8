//! Bounds of clients, each test named after the attack that it repeats (`docs/decisions/0042-bounds-of-clients.md`).

use std::io::Write as _;
use std::net::TcpStream;

use bitzel_proto::google::bytestream::ReadRequest;
use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::{Digest, DigestFunction};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::messages::noise;
use super::server::{Server, until};

const SHA256: DigestFunction = DigestFunction::Sha256;

/// Downloads that nobody reads.
struct UnreadDownloads {
    blob_bytes: usize,
    /// Streams on one connection each.
    streams: [usize; 2],
    /// `GET`s over HTTP, each on a connection of its own.
    gets: usize,
}

impl UnreadDownloads {
    /// Opens the downloads, checks that another client is served meanwhile, and returns the bytes of memory before, at
    /// the peak, and after the downloads have ended, once that is below `limit`.
    async fn run(&self, limit: u64) -> [u64; 3] {
        let server = Server::http_cache().await;
        let blob = noise(1, self.blob_bytes);
        let digest = server.upload(SHA256, &blob).await;
        let before = server.memory();
        let mut downloads = JoinSet::new();
        for streams in self.streams {
            let channel = server.endpoint().connect().await.unwrap();
            for _ in 0..streams {
                downloads.spawn(open(channel.clone(), digest));
            }
        }
        let gets: Vec<TcpStream> = (0..self.gets).map(|_| get(&server, digest)).collect();
        let mut open = Vec::new();
        while let Some(stream) = downloads.join_next().await {
            open.push(stream.unwrap());
        }
        for _ in 0..3 {
            assert_eq!(server.get(digest).await.len(), blob.len());
        }
        let peak = server.peak_memory();
        drop(open);
        drop(gets);
        until(async || server.memory() < limit).await;
        [before, peak, server.memory()]
    }
}

/// Opens a download. It is read no further than its headers, or not even to them if the server lets it wait.
async fn open(channel: Channel, digest: Digest) -> Option<tonic::Streaming<impl Sized>> {
    let request = ReadRequest {
        resource_name: format!("blobs/{digest}"),
        ..Default::default()
    };
    let response = ByteStreamClient::new(channel).read(request).await;
    response.ok().map(tonic::Response::into_inner)
}

fn get(server: &Server, digest: Digest) -> TcpStream {
    let address = server.http.as_ref().unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let hash = digest.to_string();
    let hash = hash.split('/').next().unwrap();
    write!(connection, "GET /cas/{hash} HTTP/1.1\r\nhost: cache\r\n\r\n").unwrap();
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_unread_downloads_take_bounded_memory() {
    let downloads = UnreadDownloads {
        blob_bytes: 16 << 20,
        streams: [200, 200],
        gets: 100,
    };
    let limit = 280 << 20;
    let [_, peak, _] = downloads.run(limit).await;
    assert!(peak < limit, "the server took {} MB", peak >> 20);
}

/// The whole attack. It takes a minute, the time after which downloads that wait are refused.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "by hand: takes a minute"]
async fn f3_thousands_of_unread_downloads_take_300_megabytes() {
    let downloads = UnreadDownloads {
        blob_bytes: 100_000_000,
        streams: [1_900, 100],
        gets: 600,
    };
    let memory = downloads.run(300_000_000).await;
    let [before, peak, after] = memory.map(|bytes| bytes / 1_000_000);
    assert!(
        peak < 300,
        "{before} MB before, {peak} at the peak, {after} after"
    );
    let _ = std::io::stderr().write_fmt(format_args!(
        "{before} MB before, {peak} at the peak, {after} after\n"
    ));
}
