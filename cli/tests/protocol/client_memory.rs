//! Memory that few bytes of a client take, each test named after the attack that it repeats (`docs/threat-model.md`).

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use bitzel_proto::google::bytestream::WriteRequest;
use bitzel_proto::{Digest, DigestFunction};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use super::client_bounds::RawCodec;
use super::hostile_uploads::bomb;
use super::messages::write_request;
use super::server::Server;

const SHA256: DigestFunction = DigestFunction::Sha256;
const MIB: u64 = 1 << 20;

/// Upload whose client sends one message and no more.
struct IdleUpload {
    /// Keeps the request open.
    _messages: mpsc::Sender<WriteRequest>,
    status: Status,
}

async fn idle_upload(server: &Server, message: WriteRequest) -> IdleUpload {
    let mut streams = server.streams();
    let (messages, receiver) = mpsc::channel(1);
    messages.send(message).await.unwrap();
    let answer = streams.write(ReceiverStream::new(receiver)).await;
    IdleUpload {
        _messages: messages,
        status: answer.unwrap_err(),
    }
}

/// First bytes of a blob of 100 MiB, compressed with the largest window: 262 bytes for 8 MiB.
fn compressed_start(number: u8) -> WriteRequest {
    let digest = Digest::new(SHA256, [number; 32], 100 * MIB);
    let name = format!("uploads/{number}/compressed-blobs/zstd/{digest}");
    let frame = bomb(100 * MIB, 23);
    write_request(&name, 0, &frame[..262], false)
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_idle_compressed_uploads_take_bounded_memory() {
    const MAX_ADDED_BYTES: u64 = 160 * MIB;
    let mut server = Server::http_cache_with("[limits]\nrequest_idle_timeout = \"3s\"\n").await;
    let before = server.memory();
    let mut uploads = JoinSet::new();
    for number in 0..250 {
        let mut streams = server.streams();
        uploads.spawn(async move {
            let (messages, receiver) = mpsc::channel(1);
            messages.send(compressed_start(number)).await.unwrap();
            let answer = streams.write(ReceiverStream::new(receiver)).await;
            drop(messages);
            answer.unwrap_err()
        });
    }
    // The first one ends when all have been idle for as long as they may.
    let first = uploads.join_next().await.unwrap().unwrap();
    assert_eq!(first.code(), Code::DeadlineExceeded, "{first}");
    assert!(first.message().contains("did not go on for 3s"), "{first}");
    let peak = server.peak_memory();
    assert!(
        peak < before + MAX_ADDED_BYTES,
        "{} MiB before, {} MiB at the peak",
        before / MIB,
        peak / MIB
    );
    // Most uploads still wait for the memory of their connection. A download on that one would wait behind them.
    server.channel = server.endpoint().connect().await.unwrap();
    let digest = server.put(SHA256, b"served").await;
    assert_eq!(server.get(digest).await, b"served");
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_uploads_without_progress_end() {
    let server = Server::http_cache_with("[limits]\nrequest_idle_timeout = \"1s\"\n").await;
    let digest = SHA256.digest(&[0; 1000]);
    let plain = write_request(&format!("uploads/u/blobs/{digest}"), 0, &[0; 10], false);
    for message in [plain, compressed_start(1)] {
        let upload = idle_upload(&server, message).await;
        let status = upload.status;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(status.message().contains("did not go on for 1s"), "{status}");
    }
    let hash = digest.to_string();
    let hash = hash.split('/').next().unwrap();
    for encoding in ["", "content-encoding: zstd\r\n"] {
        let mut connection = TcpStream::connect(server.http.as_ref().unwrap()).unwrap();
        connection.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        write!(
            connection,
            "PUT /cas/{hash} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n{encoding}\r\n"
        )
        .unwrap();
        connection.write_all(&bomb(MIB, 17)[..8]).unwrap();
        let mut answer = [0; 400];
        let length = connection.read(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("did not go on for 1s"), "{answer}");
    }
}

/// Encoded message whose field `path` is as often an empty message as fits into `size` bytes.
fn empty_elements(path: &[u8], size: usize) -> Bytes {
    let (element, around) = path.split_last().unwrap();
    let mut message = [element << 3 | 2, 0].repeat(size / 2 - 16);
    for field in around.iter().rev() {
        let mut outer = vec![field << 3 | 2];
        let mut length = message.len();
        while length >= 0x80 {
            outer.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        outer.push(u8::try_from(length).unwrap());
        outer.extend_from_slice(&message);
        message = outer;
    }
    message.into()
}

/// The methods with the messages that take the most memory for their bytes, and the largest size of each.
const WORST_MESSAGES: [(&str, &[u8], usize); 9] = [
    (
        "build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
        &[2],
        16 << 20,
    ),
    (
        "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
        &[2],
        16 << 20,
    ),
    (
        "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs",
        &[2],
        16 << 20,
    ),
    (
        "build.bazel.remote.execution.v2.ContentAddressableStorage/SpliceBlob",
        &[3],
        16 << 20,
    ),
    (
        "build.bazel.remote.execution.v2.ContentAddressableStorage/RegisterChunkMapping",
        &[3],
        16 << 20,
    ),
    (
        "build.bazel.remote.execution.v2.ActionCache/UpdateActionResult",
        &[3, 2],
        16 << 20,
    ),
    (
        "build.bazel.remote.execution.v2.Execution/Execute",
        &[12],
        4 << 20,
    ),
    ("build.bazel.remote.asset.v1.Push/PushBlob", &[3], 16 << 20),
    ("bitzel.worker.v1.WorkerQueue/Work", &[3, 2, 1, 2], 64 << 20),
];

/// Sends a message and returns the status, and the memory that the server took at its peak.
async fn attack(method: &str, message: Bytes) -> (Status, u64) {
    let server = Server::cache().await;
    let before = server.memory();
    let mut client = tonic::client::Grpc::new(server.channel.clone()).max_encoding_message_size(usize::MAX);
    client.ready().await.unwrap();
    let path = format!("/{method}").parse().unwrap();
    let outcome = client
        .server_streaming(tonic::Request::new(message), path, RawCodec)
        .await;
    let status = match outcome {
        Err(status) => status,
        Ok(response) => match response.into_inner().message().await {
            Err(status) => status,
            Ok(_) => Status::ok("answered"),
        },
    };
    (status, server.peak_memory().saturating_sub(before))
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_messages_of_empty_elements_take_bounded_memory() {
    let mut failures = Vec::new();
    for (method, path, size) in WORST_MESSAGES {
        let (status, added) = attack(method, empty_elements(path, size)).await;
        let _ = std::io::stderr().write_fmt(format_args!(
            "{method}: {} MiB: {:?}, {} MiB more at the peak\n",
            size >> 20,
            status.code(),
            added / MIB
        ));
        // What has arrived, twice while a buffer grows, and what the network had taken in.
        if status.code() != Code::InvalidArgument || added > 2 * size as u64 + 64 * MIB {
            failures.push(format!("{method}: {} MiB: {status}", added / MIB));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_the_admin_port_closes_idle_connections_and_bounds_their_number() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut server = Command::new(env!("CARGO_BIN_EXE_bitzel"))
        .arg("--cache-dir")
        .arg(directory.path())
        .args([
            "serve",
            "--jobs",
            "0",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(server.stdout.take().unwrap()));
    let address = lines
        .find_map(|line| {
            let line = line.unwrap();
            let start = line.find("http://")?;
            Some(line[start + 7..].split('/').next().unwrap().to_owned())
        })
        .unwrap();
    let idle: Vec<TcpStream> = [&b""[..], b"PRI * HT", b"GET /metrics HTTP/1.1\r\nx: "]
        .iter()
        .cycle()
        .take(100)
        .map(|start| {
            let mut connection = TcpStream::connect(&address).unwrap();
            // Those that are too many are closed already.
            let _ = connection.write_all(start);
            connection
        })
        .collect();
    for mut connection in idle {
        connection.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        // The end, or a reset: the server has closed it.
        if let Err(error) = connection.read_to_end(&mut Vec::new()) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
        }
    }
    let mut probe = TcpStream::connect(&address).unwrap();
    write!(
        probe,
        "GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    probe.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    server.kill().unwrap();
    server.wait().unwrap();
}
