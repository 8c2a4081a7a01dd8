//! HTTP cache: small blobs over many connections, and one blob of 1 GiB.

use std::sync::Arc;
use std::time::Instant;

use bitzel_proto::Digest;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::client::{blob, noise};
use crate::measured_server::{self, MeasuredServer};
use crate::measurement::Measurement;
use crate::streams::{CHUNK_BYTES, Content, MEBIBYTES, median};

const CONNECTION_COUNT: usize = 64;
const BLOBS_PER_CONNECTION: usize = 500;
const BLOB_BYTES: usize = 4 << 10;
const ROUNDS: u64 = 3;

/// A persistent connection, as Bazel uses them.
struct Connection(BufReader<TcpStream>);

impl Connection {
    async fn open(server: &MeasuredServer) -> Self {
        let stream = TcpStream::connect(server.http().unwrap()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::with_capacity(CHUNK_BYTES, stream))
    }

    /// Uploads chunks as one blob.
    async fn put<'a>(&mut self, digest: Digest, chunks: impl Iterator<Item = &'a [u8]>) {
        let head = format!(
            "PUT /cas/{} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
            digest.hash_hex(),
            digest.size_bytes()
        );
        self.0.write_all(head.as_bytes()).await.unwrap();
        for chunk in chunks {
            self.0.write_all(chunk).await.unwrap();
        }
        self.body().await;
    }

    async fn get(&mut self, digest: Digest) {
        let head = format!(
            "GET /cas/{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
            digest.hash_hex()
        );
        self.0.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(self.body().await, digest.size_bytes());
    }

    /// Reads a response to its end; returns the length of its body.
    async fn body(&mut self) -> u64 {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        assert!(line.starts_with("HTTP/1.1 20"), "{line}");
        let mut length = 0;
        while line.trim_end() != "" {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
            line.clear();
            self.0.read_line(&mut line).await.unwrap();
        }
        let mut left = length;
        while left > 0 {
            let read = self.0.fill_buf().await.unwrap().len();
            assert_ne!(read, 0, "the body breaks off");
            let read = u64::try_from(read).unwrap().min(left);
            self.0.consume(usize::try_from(read).unwrap());
            left -= read;
        }
        length
    }
}

pub(crate) async fn measure(server: &MeasuredServer) -> Vec<Measurement> {
    let mut measurements = small(server).await;
    measurements.extend(large(server).await);
    measurements
}

async fn small(server: &MeasuredServer) -> Vec<Measurement> {
    let mut connections = vec![];
    for number in 0..CONNECTION_COUNT {
        let seed = (1 << 41) + (number * BLOBS_PER_CONNECTION) as u64;
        let blobs: Vec<_> = (0..BLOBS_PER_CONNECTION as u64)
            .map(|index| blob(noise(seed + index, BLOB_BYTES)))
            .collect();
        let mut connection = Connection::open(server).await;
        // Warms the connection up.
        let (digest, warm) = blob(noise(seed | 1 << 42, BLOB_BYTES));
        connection.put(digest, std::iter::once(&warm[..])).await;
        connections.push((connection, Arc::new(blobs)));
    }
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (mut connection, blobs) in connections {
        tasks.spawn(async move {
            for (digest, bytes) in blobs.iter() {
                connection.put(*digest, std::iter::once(&bytes[..])).await;
            }
            (connection, blobs)
        });
    }
    let connections = tasks.join_all().await;
    let written = start.elapsed();
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for (mut connection, blobs) in connections {
        tasks.spawn(async move {
            for (digest, _) in blobs.iter() {
                connection.get(*digest).await;
            }
        });
    }
    tasks.join_all().await;
    let read = start.elapsed();
    let rate = |name, elapsed| {
        Measurement::rate(
            name,
            (CONNECTION_COUNT * BLOBS_PER_CONNECTION) as f64,
            elapsed,
            "blobs/s",
        )
    };
    vec![
        rate("blobs of 4 KiB by HTTP over 64 connections, PUT", written),
        rate("blobs of 4 KiB by HTTP over 64 connections, GET", read),
    ]
}

/// Medians of three rounds; one more round warms the server up.
async fn large(server: &MeasuredServer) -> Vec<Measurement> {
    let mut connection = Connection::open(server).await;
    let (mut writes, mut reads) = (vec![], vec![]);
    for round in 0..=ROUNDS {
        let content = Content::new((1 << 43) + round);
        let digest = content.digest();
        measured_server::sync();
        let start = Instant::now();
        connection.put(digest, content.chunks()).await;
        let written = start.elapsed();
        let start = Instant::now();
        connection.get(digest).await;
        if round > 0 {
            writes.push(written);
            reads.push(start.elapsed());
        }
    }
    vec![
        Measurement::rate("1 GiB by HTTP, PUT", MEBIBYTES, median(writes), "MiB/s"),
        Measurement::rate("1 GiB by HTTP, GET", MEBIBYTES, median(reads), "MiB/s"),
    ]
}
