//! Bounds of clients, each test named after the attack that it repeats (`docs/decisions/0042-bounds-of-clients.md`).

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use bitzel_proto::google::bytestream::ReadRequest;
use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::reapi::command::EnvironmentVariable;
use bitzel_proto::reapi::{Directory, Platform, platform};
use bitzel_proto::{Digest, DigestFunction};
use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::task::JoinSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::messages::{noise, request, shell};
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
    let read = ReadRequest {
        resource_name: format!("blobs/{digest}"),
        ..Default::default()
    };
    let response = ByteStreamClient::new(channel).read(read).await;
    response.ok().map(tonic::Response::into_inner)
}

fn get(server: &Server, digest: Digest) -> TcpStream {
    let address = server.http.as_ref().unwrap();
    let mut connection = TcpStream::connect(address).unwrap();
    let hash = digest.to_string();
    let hash = hash.split('/').next().unwrap();
    write!(connection, "GET /cas/{hash} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
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
    let read = ReadRequest {
        resource_name: format!("blobs/{digest}"),
        ..Default::default()
    };
    let mut blob = ByteStreamClient::new(newcomer)
        .read(read)
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

/// Configuration of a server without workers, where everybody may execute Actions and has the permissions `more`.
fn executing(more: &str) -> String {
    format!("[execution]\njobs = 0\n[access]\nanonymous = [\"read\", \"cas-write\", \"execute\"{more}]\n")
}

/// Asks a server to execute an Action with a platform property, in its Action or only in its Command.
async fn execute_with(server: &Server, property: &str, in_action: bool) -> Result<(), Status> {
    let platform = Platform {
        properties: vec![platform::Property {
            name: property.to_owned(),
            value: "on".to_owned(),
        }],
    };
    let mut command = shell("true");
    #[expect(deprecated, reason = "clients older than version 2.2 set it")]
    if !in_action {
        command.platform = Some(platform.clone());
    }
    let action = server
        .action(SHA256, &command, |action| {
            action.platform = in_action.then_some(platform);
        })
        .await;
    let mut operations = server.executions().execute(request(action)).await?.into_inner();
    operations.message().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn f9_powerful_properties_need_permissions() {
    let server = Server::configured(&executing("")).await;
    for property in ["network", "user-namespaces"] {
        for in_action in [true, false] {
            let refused = execute_with(&server, property, in_action).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
            assert!(refused.message().contains(property), "{refused}");
        }
    }
    assert!(execute_with(&server, "undeclared-writes", true).await.is_ok());
    let server = Server::configured(&executing(", \"network\"")).await;
    assert!(execute_with(&server, "network", true).await.is_ok());
    assert!(execute_with(&server, "user-namespaces", true).await.is_err());
    // Without rules, everybody may do everything.
    let server = Server::cache().await;
    assert!(execute_with(&server, "network", true).await.is_ok());
}

/// Codec of messages that are bytes.
#[derive(Default)]
pub(crate) struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_malformed_messages_are_invalid_arguments() {
    const REAPI: &str = "build.bazel.remote.execution.v2";
    let server = Server::cache().await;
    for method in [
        format!("/{REAPI}.ContentAddressableStorage/FindMissingBlobs"),
        format!("/{REAPI}.ActionCache/UpdateActionResult"),
        format!("/{REAPI}.Execution/Execute"),
        "/google.bytestream.ByteStream/Read".to_owned(),
        "/google.bytestream.ByteStream/Write".to_owned(),
    ] {
        let mut client = tonic::client::Grpc::new(server.channel.clone());
        client.ready().await.unwrap();
        let path = method.parse().unwrap();
        let malformed = tonic::Request::new(Bytes::from_static(b"\xff\xff\xff"));
        let outcome = client.server_streaming(malformed, path, RawCodec).await;
        let status = match outcome {
            Err(status) => status,
            Ok(response) => response.into_inner().message().await.unwrap_err(),
        };
        assert_eq!(status.code(), Code::InvalidArgument, "{method}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_environment_names_are_names() {
    let server = Server::farm().await;
    for name in ["LD_PRELOAD=/x", "=", ""] {
        let mut command = shell("true");
        command.environment_variables.push(EnvironmentVariable {
            name: name.to_owned(),
            value: "value".to_owned(),
        });
        let response = server.run(&command, &Directory::default()).await;
        let status = response.status.unwrap();
        assert_eq!(status.code, i32::from(Code::InvalidArgument), "{status:?}");
        assert!(status.message.contains("environment variable"), "{status:?}");
    }
}
