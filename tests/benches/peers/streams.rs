//! Streams: one blob of 1 GiB by `ByteStream`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_proto::Digest;
use bitzel_proto::google::bytestream::{ReadRequest, WriteRequest};

use crate::client::{Client, FUNCTION, noise};
use crate::measured_server::{self, MeasuredServer};
use crate::measurement::Measurement;

pub(crate) const WRITE_MEASUREMENT: &str = "1 GiB by ByteStream, written";
pub(crate) const READ_MEASUREMENT: &str = "1 GiB by ByteStream, read";
/// Bytes of data in one message.
pub(crate) const CHUNK_BYTES: usize = 1 << 20;
/// Messages in a stream.
const CHUNK_COUNT: usize = 1024;
pub(crate) const MEBIBYTES: f64 = (CHUNK_BYTES * CHUNK_COUNT) as f64 / (1 << 20) as f64;
/// Different chunks; a blob repeats them.
const DISTINCT_CHUNKS: usize = 64;
/// Measured rounds.
const ROUNDS: u64 = 5;
/// Earlier rounds, which warm the server up and fill the store.
const WARM_UP_ROUNDS: u64 = 4;

/// Content of a large blob.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    chunks: Arc<Vec<Vec<u8>>>,
    length: usize,
}

impl Content {
    pub(crate) fn new(seed: u64) -> Self {
        Self::of_length(seed, CHUNK_COUNT)
    }

    /// A blob of `length` chunks.
    pub(crate) fn of_length(seed: u64, length: usize) -> Self {
        let all = noise(seed, DISTINCT_CHUNKS * CHUNK_BYTES);
        let chunks = all.chunks(CHUNK_BYTES).map(<[u8]>::to_vec).collect();
        Self {
            chunks: Arc::new(chunks),
            length,
        }
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.length).map(|index| self.chunks[index % DISTINCT_CHUNKS].as_slice())
    }

    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = FUNCTION.hasher();
        self.chunks().for_each(|chunk| hasher.update(chunk));
        hasher.finish()
    }

    /// Messages of an upload.
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
            write_offset: i64::try_from(index * CHUNK_BYTES).unwrap(),
            finish_write: index + 1 == content.length,
            data: content.chunks[index % DISTINCT_CHUNKS].clone(),
        })
    }
}

/// UUID of an upload, from the digest.
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

/// Medians of the rounds.
pub(crate) async fn measure(server: &MeasuredServer) -> Vec<Measurement> {
    let client = Client::connect(server).await;
    let (mut writes, mut reads) = (vec![], vec![]);
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        let content = Content::new(round + 1);
        let digest = content.digest();
        // Earlier rounds must not cost this one disk writes.
        measured_server::sync();
        let start = Instant::now();
        write(&client, &content, digest).await;
        let written = start.elapsed();
        let start = Instant::now();
        read(&client, digest).await;
        if round >= WARM_UP_ROUNDS {
            writes.push(written);
            reads.push(start.elapsed());
        }
    }
    vec![
        Measurement::rate(WRITE_MEASUREMENT, MEBIBYTES, median(writes), "MiB/s"),
        Measurement::rate(READ_MEASUREMENT, MEBIBYTES, median(reads), "MiB/s"),
    ]
}

pub(crate) fn median(mut durations: Vec<Duration>) -> Duration {
    durations.sort_unstable();
    durations[durations.len() / 2]
}
