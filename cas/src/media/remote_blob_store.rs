//! Store behind the Remote Execution API.

mod batches;
mod byte_stream;
mod capabilities;
mod upload_source;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::reapi::FindMissingBlobsRequest;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bitzel_rpc::endpoint::Channel;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use self::capabilities::ServerCapabilities;
use crate::blob_store::verification::{is_whole, verified};
use crate::blob_store::{BlobRange, BlobStore, BlobStream, Lease};
use crate::error::Error;
use crate::retry::retried;

/// Size of a digest in a message, beside its blob, rounded up: 64 digits, size, tags, status.
const DIGEST_OVERHEAD_BYTES: u64 = 128;
/// Digests in one `FindMissingBlobs` request: about 1 MiB.
const MAX_DIGESTS_PER_REQUEST: usize = 8 << 10;
/// Requests of one call at the same time.
const MAX_CONCURRENT_REQUESTS: usize = 8;

/// Client of the `ContentAddressableStorage` and `ByteStream` services.
///
/// Small blobs go in batches within the server's limits, large ones as streams. Every blob that is read whole is checked
/// against its digest, so that wrong bytes of a faulty server or network are never returned. Calls that fail because the
/// server is unreachable or overloaded (`UNAVAILABLE`, `ABORTED`, `RESOURCE_EXHAUSTED`, or a broken connection) are
/// repeated with back-off. Reads continue where they broke; writes continue if the server supports `QueryWriteStatus`, or
/// if no more than 16 MiB have been sent.
#[derive(Debug, Clone)]
pub struct RemoteBlobStore {
    storage: ContentAddressableStorageClient<Channel>,
    streams: Streams,
    instance: InstanceName,
    capabilities: ServerCapabilities,
    /// False if the server does not support the limit of a read. bazel-remote ends such a read with `OUT_OF_RANGE` at the
    /// limit.
    supports_read_limit: Arc<AtomicBool>,
}

type Streams = ByteStreamClient<Channel>;

/// Options of a [`RemoteBlobStore`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoteBlobStoreOptions {
    /// Compresses transfers with Zstandard if the server supports it. Useful if the network is slower than a core
    /// compresses, some 300 MiB a second: not on one machine, nor in a fast local network.
    pub compression: bool,
}

impl RemoteBlobStore {
    /// Makes a client on a channel from [`bitzel_rpc::endpoint::connect`], and asks the server for its capabilities.
    pub async fn connect(channel: Channel, instance: InstanceName) -> Result<Self, Error> {
        Self::connect_with(channel, instance, RemoteBlobStoreOptions::default()).await
    }

    /// Like [`RemoteBlobStore::connect`], with options.
    pub async fn connect_with(
        channel: Channel,
        instance: InstanceName,
        options: RemoteBlobStoreOptions,
    ) -> Result<Self, Error> {
        let capabilities = ServerCapabilities::ask(&channel, &instance).await?;
        Ok(Self {
            storage: ContentAddressableStorageClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE),
            streams: ByteStreamClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE),
            instance,
            supports_read_limit: Arc::new(AtomicBool::new(true)),
            capabilities: if options.compression {
                capabilities
            } else {
                capabilities.without_compression()
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
        self.capabilities.check_function(function)?;
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
                Error::InvalidArgument(format!("the store answered with an invalid digest: {error}"))
            })
    }
}

#[async_trait]
impl BlobStore for RemoteBlobStore {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        let mut requests = Vec::new();
        for (function, digests) in by_function(digests) {
            for chunk in digests.chunks(MAX_DIGESTS_PER_REQUEST) {
                requests.push(self.find_missing_chunk(function, chunk.to_vec()));
            }
        }
        futures::stream::iter(requests)
            .buffered(MAX_CONCURRENT_REQUESTS)
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

    async fn lease(&self, _: &[Digest]) -> Result<Lease, Error> {
        // The protocol cannot protect a blob from eviction; `find_missing` extends its lifetime.
        Ok(Lease::none())
    }

    async fn resolve(&self, _: DigestFunction, _: [u8; 32]) -> Result<Option<Digest>, Error> {
        // The protocol has no look-up by hash alone.
        Ok(None)
    }

    async fn read_batch(&self, digests: &[Digest]) -> Vec<Result<Bytes, Error>> {
        self.read_batches(digests).await
    }

    async fn write_batch(&self, blobs: Vec<(Digest, Bytes)>) -> Vec<Result<(), Error>> {
        self.write_batches(blobs).await
    }
}

/// Distinct digests other than that of the empty blob, by function: a request is for one function only.
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
