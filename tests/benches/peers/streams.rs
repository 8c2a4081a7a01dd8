//! One blob of 1 GiB by `ByteStream`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_proto::Digest;
use bitzel_proto::google::bytestream::{ReadRequest, WriteRequest};

use crate::client::{Client, FUNCTION, noise};
use crate::measurement::Measurement;
use crate::system::{self, System};

pub(crate) const WRITE: &str = "1 GiB by ByteStream, written";
pub(crate) const READ: &str = "1 GiB by ByteStream, read";
/// Data in one message, in bytes.
pub(crate) const CHUNK: usize = 1 << 20;
/// Messages in a stream.
const CHUNKS: usize = 1024;
pub(crate) const MEBIBYTES: f64 = (CHUNK * CHUNKS) as f64 / (1 << 20) as f64;
/// Chunks that differ: the blob is these, over and over.
const DISTINCT: usize = 64;
/// Rounds that count, and those before them, which warm everything up and fill the store.
const ROUNDS: u64 = 5;
const WARM_UP: u64 = 4;

/// Content of a blob.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    chunks: Arc<Vec<Vec<u8>>>,
    length: usize,
}

impl Content {
    pub(crate) fn new(seed: u64) -> Self {
        Self::of_length(seed, CHUNKS)
    }

    /// A blob of `length` chunks.
    pub(crate) fn of_length(seed: u64, length: usize) -> Self {
        let all = noise(seed, DISTINCT * CHUNK);
        let chunks = all.chunks(CHUNK).map(<[u8]>::to_vec).collect();
        Self {
            chunks: Arc::new(chunks),
            length,
        }
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.length).map(|index| self.chunks[index % DISTINCT].as_slice())
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = FUNCTION.hasher();
        self.chunks().for_each(|chunk| hasher.update(chunk));
        hasher.finish()
    }

    /// The messages of an upload.
    pub(crate) fn requests(&self, digest: Digest) -> impl Iterator<Item = WriteRequest> + Send + 'static {
        let name = format!(
            "uploads/{}/blobs/{}/{}",
            uuid(digest),
            digest.hash_hex(),
            digest.size_bytes()
        );
        let content = self.clone();
        (0..self.length).map(move |index| WriteRequest {
            resource_name: if index == 0 { name.clone() } else { String::new() },
            write_offset: i64::try_from(index * CHUNK).unwrap(),
            finish_write: index + 1 == content.length,
            data: content.chunks[index % DISTINCT].clone(),
        })
    }
}

/// A name for an upload; the digest makes it unique.
fn uuid(digest: Digest) -> String {
    let hash = digest.hash_hex();
    format!(
        "{}-{}-4{}-8{}-{}",
        &hash[..8],
        &hash[8..12],
        &hash[12..15],
        &hash[15..18],
        &hash[18..30]
    )
}

pub(crate) async fn write(client: &Client, content: &Content, digest: Digest) {
    let requests = tokio_stream::iter(content.requests(digest));
    let response = client.byte_stream().write(requests).await.unwrap();
    let committed = response.into_inner().committed_size;
    assert_eq!(u64::try_from(committed).ok(), Some(digest.size_bytes()));
}

pub(crate) async fn read(client: &Client, digest: Digest) {
    let request = ReadRequest {
        resource_name: format!("blobs/{}/{}", digest.hash_hex(), digest.size_bytes()),
        ..ReadRequest::default()
    };
    let mut stream = client.byte_stream().read(request).await.unwrap().into_inner();
    let mut received = 0;
    while let Some(message) = stream.message().await.unwrap() {
        received += message.data.len() as u64;
    }
    assert_eq!(received, digest.size_bytes());
}

/// The middle of the rounds.
pub(crate) async fn measure(system: &System) -> Vec<Measurement> {
    let client = Client::connect(system).await;
    let (mut writes, mut reads) = (vec![], vec![]);
    for round in 0..WARM_UP + ROUNDS {
        let content = Content::new(round + 1);
        let digest = content.digest();
        // What the rounds before left for the disk is theirs.
        system::sync();
        let start = Instant::now();
        write(&client, &content, digest).await;
        let written = start.elapsed();
        let start = Instant::now();
        read(&client, digest).await;
        if round >= WARM_UP {
            writes.push(written);
            reads.push(start.elapsed());
        }
    }
    vec![
        Measurement::rate(WRITE, MEBIBYTES, median(writes), "MiB/s"),
        Measurement::rate(READ, MEBIBYTES, median(reads), "MiB/s"),
    ]
}

pub(crate) fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}
