//! A store behind the Remote Execution API.

mod batches;
mod byte_stream;
mod capabilities;
mod upload_source;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::reapi::FindMissingBlobsRequest;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use crate::blob_store::{BlobRange, BlobStore, BlobStream};
use crate::decorators::verifying_blob_store::{is_whole, verified};
use crate::error::Error;
use crate::retry::retried;
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_rpc::endpoint::Channel;

use capabilities::Abilities;

/// What a digest costs in a message beside its blob, rounded up: 64 digits, size, tags, status.
const DIGEST_OVERHEAD: u64 = 128;
/// Digests in one `FindMissingBlobs` request: about 1 MiB.
const DIGESTS_PER_REQUEST: usize = 8 << 10;
/// Requests of one call under way at the same time.
const CONCURRENCY: usize = 8;

/// A client of the `ContentAddressableStorage` and `ByteStream` services.
///
/// Many small blobs go in batches within the server's limits, large ones as streams. Whatever is read whole is checked
/// against its digest, so that a faulty server or network cannot hand out wrong bytes. Calls that fail because the
/// server is out of reach or overloaded (`UNAVAILABLE`, `ABORTED`, `RESOURCE_EXHAUSTED`, or a broken connection) are
/// made again after growing pauses; streams go on where they broke, writes as far as the server knows
/// `QueryWriteStatus` or 16 MiB reach back.
#[derive(Debug, Clone)]
pub struct RemoteBlobStore {
    storage: ContentAddressableStorageClient<Channel>,
    streams: Streams,
    instance: InstanceName,
    abilities: Abilities,
    /// Whether the server takes a limit of a read. bazel-remote ends one with `OUT_OF_RANGE` where the limit is.
    takes_read_limit: Arc<AtomicBool>,
}

type Streams = ByteStreamClient<Channel>;

/// How to use a [`RemoteBlobStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteBlobStoreOptions {
    /// Compresses transfers with Zstandard if the server offers it. Worth it where the network is slower than a core
    /// compresses, some 300 MiB a second: not on one machine, nor in a fast local network.
    pub compression: bool,
}

impl RemoteBlobStore {
    /// A client on a channel from [`bitzel_rpc::endpoint::connect`]. Asks the server for its limits.
    pub async fn connect(channel: Channel, instance: InstanceName) -> Result<Self, Error> {
        Self::connect_with(channel, instance, RemoteBlobStoreOptions::default()).await
    }

    /// Like [`RemoteBlobStore::connect`], with options.
    pub async fn connect_with(
        channel: Channel,
        instance: InstanceName,
        options: RemoteBlobStoreOptions,
    ) -> Result<Self, Error> {
        let abilities = Abilities::ask(&channel, &instance).await?;
        Ok(Self {
            storage: ContentAddressableStorageClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE),
            streams: ByteStreamClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE),
            instance,
            takes_read_limit: Arc::new(AtomicBool::new(true)),
            abilities: if options.compression {
                abilities
            } else {
                abilities.without_compression()
            },
        })
    }

    async fn find_missing_chunk(
        &self,
        function: DigestFunction,
        digests: Vec<Digest>,
    ) -> Result<Vec<Digest>, Error> {
        let request = FindMissingBlobsRequest {
            instance_name: self.instance.to_string(),
            blob_digests: digests.iter().map(Digest::to_wire).collect(),
            digest_function: function.to_wire(),
        };
        self.abilities.check_function(function)?;
        let ask = async || {
            let response = self.storage.clone().find_missing_blobs(request.clone()).await;
            response.map_err(Error::remote("cannot ask the store which blobs are missing"))
        };
        let response = retried(ask).await?;
        let missing = response.into_inner().missing_blob_digests;
        missing
            .iter()
            .map(|digest| Digest::from_wire(function, digest))
            .collect::<Result<_, _>>()
            .map_err(|error| {
                Error::InvalidArgument(format!("the store answered with a digest that is none: {error}"))
            })
    }
}

#[async_trait]
impl BlobStore for RemoteBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let mut requests = Vec::new();
        for (function, digests) in by_function(digests) {
            for chunk in digests.chunks(DIGESTS_PER_REQUEST) {
                requests.push(self.find_missing_chunk(function, chunk.to_vec()));
            }
        }
        futures::stream::iter(requests)
            .buffered(CONCURRENCY)
            .try_concat()
            .await
    }

    async fn read(&self, digest: Digest, range: BlobRange) -> Result<BlobStream, Error> {
        let stream = self.read_stream(digest, range).await?;
        Ok(if is_whole(digest, range) {
            verified(digest, stream)
        } else {
            stream
        })
    }

    async fn write(&self, digest: Digest, blob: BlobStream) -> Result<(), Error> {
        self.write_stream(digest, blob).await
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.read_batches(digests).await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        self.write_batches(blobs).await
    }
}

/// The distinct digests that are not the empty blob, by function: a request speaks of one function only.
fn by_function(digests: &[Digest]) -> Vec<(DigestFunction, Vec<Digest>)> {
    let mut seen = HashSet::with_capacity(digests.len());
    let distinct: Vec<Digest> = digests
        .iter()
        .filter(|digest| !digest.is_empty_blob() && seen.insert(**digest))
        .copied()
        .collect();
    let mut groups = Vec::new();
    for function in DigestFunction::ALL {
        let of_function: Vec<Digest> = distinct
            .iter()
            .filter(|digest| digest.function() == function)
            .copied()
            .collect();
        if !of_function.is_empty() {
            groups.push((function, of_function));
        }
    }
    groups
}
