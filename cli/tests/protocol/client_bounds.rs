//! Bounds of clients, each test named after the attack that it repeats (`docs/decisions/0042-bounds-of-clients.md`).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use bitzel_proto::google::bytestream::ReadRequest;
use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::{Digest, DigestFunction};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::messages::noise;
use super::server::{Server, until};

const SHA256: DigestFunction = DigestFunction::Sha256;

/// Memory that a server may keep after many downloads.
const MAX_KEPT_BYTES: u64 = 40 << 20;

/// Downloads that nobody reads.
struct UnreadDownloads {
    blob_bytes: usize,
    /// Streams on one connection each.
    streams: [usize; 2],
    /// `GET`s over HTTP, each on a connection of its own.
    gets: usize,
}

impl UnreadDownloads {
    /// Opens the downloads, checks that another client is served meanwhile, and waits after their end until the memory is
    /// returned. The bytes of memory before, at the peak and after.
    async fn run(&self) -> [u64; 3] {
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
        until(async || server.memory() < before + MAX_KEPT_BYTES).await;
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
    let [_, peak, _] = downloads.run().await;
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
    let memory = downloads.run().await;
    let [before, peak, after] = memory.map(|bytes| bytes / 1_000_000);
    assert!(
        peak < 300,
        "{before} MB before, {peak} at the peak, {after} after"
    );
    let _ = std::io::stderr().write_fmt(format_args!(
        "{before} MB before, {peak} at the peak, {after} after\n"
    ));
}

/// Waits until the server has closed a connection, and returns what it sent before.
fn read_to_end(mut connection: TcpStream) -> Vec<u8> {
    connection.set_read_timeout(Some(Duration::from_mins(2))).unwrap();
    let mut received = Vec::new();
    match connection.read_to_end(&mut received) {
        Ok(_) => {}
        // Closed with data that nobody has read.
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}"),
    }
    received
}

/// First bytes of clients that never come to a call: nothing, half a preface, a preface alone, half a header.
const UNFINISHED_STARTS: [&[u8]; 4] = [
    b"",
    b"PRI * HTTP/2.0\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /cas/",
];

#[tokio::test(flavor = "multi_thread")]
async fn f6_connections_without_calls_are_closed_on_both_ports() {
    let server = Server::http_cache_with("[limits]\nauthentication_timeout = \"1s\"\n").await;
    for address in [server.address(), server.http.as_ref().unwrap()] {
        let connections = UNFINISHED_STARTS.map(|start| {
            let mut connection = TcpStream::connect(address).unwrap();
            connection.write_all(start).unwrap();
            connection
        });
        for connection in connections {
            read_to_end(connection);
        }
    }
    let digest = server.put(SHA256, b"served").await;
    assert_eq!(server.get(digest).await, b"served");
}

#[tokio::test(flavor = "multi_thread")]
async fn f6_idle_connections_lock_nobody_out() {
    let limits = "[limits]\nconnections = 40\nunauthenticated_connections = 20\n";
    let server = Server::http_cache_with(limits).await;
    let digest = server.put(SHA256, b"served").await;
    // More than the server takes. They are idle for less time than the server allows.
    let idle: Vec<TcpStream> = (0..60)
        .map(|_| TcpStream::connect(server.address()).unwrap())
        .collect();
    let newcomer = server.endpoint().connect().await.unwrap();
    let request = ReadRequest {
        resource_name: format!("blobs/{digest}"),
        ..Default::default()
    };
    let mut blob = ByteStreamClient::new(newcomer)
        .read(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(blob.message().await.unwrap().unwrap().data, b"served");
    assert_eq!(server.get(digest).await, b"served", "connected before");
    drop(idle);
}

#[test]
fn f6_the_server_raises_its_limit_of_open_files() {
    let directory = tempfile::TempDir::new().unwrap();
    let shell = format!(
        "ulimit -Sn 64; ulimit -Hn 4000; exec {} --cache-dir {} serve --jobs 0 --listen 127.0.0.1:0",
        env!("CARGO_BIN_EXE_bitzel"),
        directory.path().display()
    );
    let mut server = Command::new("bash")
        .args(["-c", &shell])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 6];
    let mut output = server.stdout.take().unwrap();
    output.read_exact(&mut first).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.id())).unwrap();
    let mut messages = String::new();
    server.kill().unwrap();
    server.wait().unwrap();
    server
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut messages)
        .unwrap();
    let limit = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let limit: Vec<&str> = limit.split_whitespace().collect();
    assert_eq!(limit[3..5], ["4000", "4000"]);
    assert!(messages.contains("LimitNOFILE="), "{messages}");
}
