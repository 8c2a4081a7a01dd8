//! A store behind the Remote Execution API.

mod batches;
mod byte_stream;

use std::collections::HashSet;

use async_trait::async_trait;
use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::reapi::capabilities_client::CapabilitiesClient;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::reapi::{FindMissingBlobsRequest, GetCapabilitiesRequest};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tonic::transport::Channel;

use crate::blob_store::{BlobRange, BlobStore, BlobStream};
use crate::error::Error;
use crate::services::MAX_MESSAGE_SIZE;
use crate::verifying_blob_store::{is_whole, verified};

/// What a gRPC peer takes in one message unless it was told otherwise. No batch goes beyond, whatever the server
/// allows: a batch of this size has no latency left to save.
const GRPC_MESSAGE_LIMIT: u64 = 4 << 20;
/// What a digest costs in a message beside its blob, rounded up: 64 digits, size, tags, status.
const DIGEST_OVERHEAD: u64 = 128;
/// Digests in one `FindMissingBlobs` request: about 1 MiB.
const DIGESTS_PER_REQUEST: usize = 8 << 10;
/// Requests of one call under way at the same time.
const CONCURRENCY: usize = 8;

/// A client of the `ContentAddressableStorage` and `ByteStream` services.
///
/// Many small blobs go in batches, large ones as streams. Whatever is read whole is checked against its digest, so
/// that a faulty server or network cannot hand out wrong bytes.
#[derive(Debug, Clone)]
pub struct RemoteBlobStore {
    storage: ContentAddressableStorageClient<Channel>,
    streams: ByteStreamClient<Channel>,
    instance: InstanceName,
    /// Limit of one batch in bytes, overhead included.
    batch_limit: u64,
}

impl RemoteBlobStore {
    /// A client on a channel from [`crate::endpoint::connect`]. Asks the server for its limits.
    pub async fn connect(channel: Channel, instance: InstanceName) -> Result<Self, Error> {
        let request = GetCapabilitiesRequest {
            instance_name: instance.to_string(),
        };
        let response = CapabilitiesClient::new(channel.clone())
            .get_capabilities(request)
            .await;
        let cache = response
            .map_err(Error::remote("cannot ask the server for its capabilities"))?
            .into_inner()
            .cache_capabilities
            .unwrap_or_default();
        // Zero means that the server sets no limit; gRPC does.
        let batch_limit = match u64::try_from(cache.max_batch_total_size_bytes) {
            Ok(0) | Err(_) => GRPC_MESSAGE_LIMIT,
            Ok(limit) => limit.min(GRPC_MESSAGE_LIMIT),
        };
        Ok(Self {
            storage: ContentAddressableStorageClient::new(channel.clone())
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE),
            streams: ByteStreamClient::new(channel)
                .max_decoding_message_size(MAX_MESSAGE_SIZE)
                .max_encoding_message_size(MAX_MESSAGE_SIZE),
            instance,
            batch_limit,
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
        let response = self.storage.clone().find_missing_blobs(request).await;
        let response = response.map_err(Error::remote("cannot ask the store which blobs are missing"))?;
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

#[cfg(test)]
mod tests;
