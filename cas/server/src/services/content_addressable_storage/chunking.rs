//! Content-defined chunking of large blobs: after a small change, a blob shares most of its chunks with the version
//! before, and only the others are transferred.
//!
//! The chunks of a blob are remembered in an action cache, under an instance name that no client can use, one for each
//! tenant. A completeness-checking cache forgets a mapping when one of its chunks is evicted, and the next call cuts the
//! blob again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bitzel_cas::action_cache::ActionCache;
use bitzel_cas::blob_store::verification::verified;
use bitzel_cas::blob_store::{BlobRange, BlobStore, BlobStream};
use bitzel_cas::blocking::run_blocking;
use bitzel_cas::error::Error;
use bitzel_proto::reapi::chunking_function::Value as ChunkingFunction;
use bitzel_proto::reapi::{ActionResult, FastCdc2020Params, OutputFile};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{FastCDC, Normalization};
use futures::{StreamExt, TryStreamExt};

use super::MAX_CHUNKS;

/// Purpose of the reserved instance name of mappings.
pub(super) const MAPPINGS: &str = "chunk-mappings";
/// Chunks of the largest mapping that is remembered. A mapping is one message with about 80 bytes for each chunk. With
/// chunks of the default size this is a blob of 16 GiB.
const MAX_REMEMBERED_CHUNKS: usize = 1 << 15;
/// Chunks that are read at the same time while a blob is spliced.
const MAX_CONCURRENT_CHUNK_READS: usize = 4;

/// Parameters of chunking: `FastCDC` 2020 with normalization 2 (`remote_execution.proto`, `FastCdc2020Params`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunking {
    average: u32,
}

impl Default for Chunking {
    /// An average of 512 KiB, as the protocol recommends.
    fn default() -> Self {
        Self { average: 512 << 10 }
    }
}

impl Chunking {
    /// Cuts chunks of `average` bytes: a power of two from 1 KiB to 4 MiB. The smallest chunk has a quarter of that, the
    /// largest four times as much.
    pub fn new(average: u32) -> Result<Self, Error> {
        if average.is_power_of_two() && (1 << 10..=4 << 20).contains(&average) {
            return Ok(Self { average });
        }
        Err(Error::InvalidArgument(format!(
            "chunks of {average} bytes are not possible; take a power of two from 1024 to {}",
            4 << 20
        )))
    }

    /// The parameters as the capabilities announce them.
    pub(in crate::services) fn to_wire(self) -> FastCdc2020Params {
        FastCdc2020Params {
            avg_chunk_size_bytes: self.average.into(),
            seed: 0,
        }
    }

    fn average(self) -> usize {
        self.average as usize
    }

    fn largest(self) -> usize {
        self.average() * 4
    }

    /// Cuts off the chunks whose ends are certain: all of them if `window` is the last one, otherwise those that no
    /// further byte could change. Also returns the rest.
    fn cut(
        self,
        function: DigestFunction,
        window: &Bytes,
        is_last: bool,
    ) -> (Vec<(Digest, Bytes)>, BytesMut) {
        let (average, largest) = (self.average(), self.largest());
        let cutter = FastCDC::with_level(window, average / 4, average, largest, Normalization::Level2);
        let mut chunks = Vec::new();
        let mut start = 0;
        while start < window.len() && (is_last || window.len() - start >= largest) {
            let (_, end) = cutter.cut(start, window.len() - start);
            let chunk = window.slice(start..end);
            chunks.push((function.digest(&chunk), chunk));
            start = end;
        }
        (chunks, BytesMut::from(&window[start..]))
    }
}

/// Blobs of a store that can be split into chunks and spliced from them.
#[derive(Clone)]
pub(super) struct ChunkedBlobs {
    pub(super) store: Arc<dyn BlobStore>,
    pub(super) chunking: Chunking,
    /// Cache of mappings, which checks for completeness. Without it, each split cuts the blob again.
    pub(super) mappings: Option<Arc<dyn ActionCache>>,
    /// Reserved name for [`MAPPINGS`].
    pub(super) instance: InstanceName,
}

impl ChunkedBlobs {
    /// The chunks of a blob that can be told without cutting it, all of which are in the store.
    pub(super) async fn known_chunks(&self, digest: Digest) -> Result<Option<Vec<Digest>>, Error> {
        if !self.store.find_missing(&[digest]).await?.is_empty() {
            return Err(Error::NotFound(digest));
        }
        if digest.is_empty_blob() {
            return Ok(Some(Vec::new()));
        }
        // Chunks of a small blob would save almost nothing, and a list of more of them would not fit into a message.
        let (size, average) = (digest.size_bytes(), u64::from(self.chunking.average));
        if size < self.chunking.largest() as u64 || size / average > MAX_CHUNKS as u64 {
            return Ok(Some(vec![digest]));
        }
        Ok(self.remembered(digest).await)
    }

    /// Memory that [`split`](Self::split) takes: the window that is cut and what is read and compressed beside it, and
    /// the list of chunks.
    pub(super) fn memory_of_split(&self, digest: Digest) -> u64 {
        let chunks = digest.size_bytes() / u64::from(self.chunking.average) + 1;
        self.chunking.largest() as u64 * 8 + chunks * 2 * size_of::<Digest>() as u64
    }

    /// Cuts a blob into chunks, all of which are then in the store.
    pub(super) async fn split(&self, digest: Digest) -> Result<Vec<Digest>, Error> {
        let chunks = self.cut(digest).await?;
        self.remember(digest, &chunks).await;
        Ok(chunks)
    }

    /// Cuts a blob. It is streamed, so that memory holds a few chunks whatever its size.
    async fn cut(&self, digest: Digest) -> Result<Vec<Digest>, Error> {
        let mut blob = self.store.read(digest, BlobRange::default()).await?;
        let enough = self.chunking.largest() * 4;
        let mut window = BytesMut::new();
        let mut is_last = false;
        let mut mapping = Vec::new();
        while !is_last {
            while window.len() < enough && !is_last {
                match blob.next().await {
                    Some(bytes) => window.extend_from_slice(&bytes?),
                    None => is_last = true,
                }
            }
            let (chunking, function) = (self.chunking, digest.function());
            let full = window.freeze();
            let (chunks, rest) = run_blocking(move || chunking.cut(function, &full, is_last)).await;
            window = rest;
            mapping.extend(chunks.iter().map(|(digest, _)| *digest));
            self.store_missing(chunks).await?;
        }
        Ok(mapping)
    }

    async fn store_missing(&self, mut chunks: Vec<(Digest, Bytes)>) -> Result<(), Error> {
        let digests: Vec<Digest> = chunks.iter().map(|(digest, _)| *digest).collect();
        let missing = self.store.find_missing(&digests).await?;
        chunks.retain(|(digest, _)| missing.contains(digest));
        let written = self.store.write_batch(chunks).await;
        written.into_iter().collect()
    }

    /// Makes a blob from chunks, and remembers them if they are proven to make it.
    ///
    /// The proof is the digest of their bytes, computed here. A successful write proves nothing: a store leaves the bytes
    /// unread if another writer has brought the blob meanwhile.
    pub(super) async fn splice(
        &self,
        digest: Digest,
        chunks: Vec<Digest>,
        function: i32,
    ) -> Result<(), Error> {
        if self.store.find_missing(&[digest]).await?.is_empty() {
            return Ok(());
        }
        let total = chunks
            .iter()
            .fold(0_u64, |total, chunk| total.saturating_add(chunk.size_bytes()));
        if total != digest.size_bytes() {
            return Err(Error::InvalidArgument(format!(
                "the {} chunks have {total} bytes together, which cannot be blob {digest}",
                chunks.len()
            )));
        }
        let _lease = self.store.lease(&chunks).await?;
        if let Some(missing) = self.store.find_missing(&chunks).await?.first() {
            return Err(Error::NotFound(*missing));
        }
        // The bytes that complete the blob pass only after the check of the digest.
        let passed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&passed);
        let blob = verified(digest, self.concatenated(chunks.clone())).inspect_ok(move |bytes| {
            counter.fetch_add(bytes.len() as u64, Ordering::AcqRel);
        });
        self.store.write(digest, blob.boxed()).await?;
        let is_proven = passed.load(Ordering::Acquire) == digest.size_bytes();
        // Chunks of another chunking function would share nothing with those of other blobs.
        if is_proven && function == i32::from(ChunkingFunction::FastCdc2020) {
            self.remember(digest, &chunks).await;
        }
        Ok(())
    }

    fn concatenated(&self, chunks: Vec<Digest>) -> BlobStream {
        let store = Arc::clone(&self.store);
        let blobs = futures::stream::iter(chunks).map(move |chunk| {
            let store = Arc::clone(&store);
            async move { store.read(chunk, BlobRange::default()).await }
        });
        blobs.buffered(MAX_CONCURRENT_CHUNK_READS).try_flatten().boxed()
    }

    /// Key of a mapping. It includes the chunk size: blobs that were cut for another size are cut again. Mappings without
    /// "proven" in their key are not used: they were remembered before chunks were checked.
    fn key(&self, blob: Digest) -> Digest {
        let name = format!("proven chunk mapping of {blob} by {}", self.chunking.average);
        blob.function().digest(name.as_bytes())
    }

    async fn remembered(&self, digest: Digest) -> Option<Vec<Digest>> {
        let mappings = self.mappings.as_ref()?;
        let mapping = match mappings.get(&self.instance, self.key(digest)).await {
            Ok(mapping) => mapping?,
            Err(error) => {
                tracing::debug!(%digest, %error, "cannot look up the chunks of a blob");
                return None;
            }
        };
        let chunks = mapping.output_files.iter();
        chunks
            .map(|chunk| Digest::from_wire_field(digest.function(), chunk.digest.as_ref()).ok())
            .collect()
    }

    /// Remembers a mapping. It only saves work the next time, so the call does not fail if it cannot be written.
    async fn remember(&self, digest: Digest, chunks: &[Digest]) {
        let Some(mappings) = &self.mappings else {
            return;
        };
        if chunks.len() > MAX_REMEMBERED_CHUNKS {
            return;
        }
        let file = |chunk: &Digest| OutputFile {
            digest: Some(chunk.to_wire()),
            ..OutputFile::default()
        };
        let mapping = ActionResult {
            output_files: chunks.iter().map(file).collect(),
            ..ActionResult::default()
        };
        let key = self.key(digest);
        if let Err(error) = mappings.put(&self.instance, key, mapping).await {
            tracing::debug!(%digest, %error, "cannot remember the chunks of a blob");
        }
    }
}
