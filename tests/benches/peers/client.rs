//! The client for all measured servers.

use bitzel_proto::google::bytestream::byte_stream_client::ByteStreamClient;
use bitzel_proto::reapi;
use bitzel_proto::reapi::action_cache_client::ActionCacheClient;
use bitzel_proto::reapi::batch_update_blobs_request::Request;
use bitzel_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::{Digest, DigestFunction};
use bitzel_rpc::endpoint;
use bitzel_rpc::endpoint::Channel;

use crate::measured_server::MeasuredServer;

/// The digest function that every server supports.
pub(crate) const FUNCTION: DigestFunction = DigestFunction::Sha256;

/// Larger than every message of the workloads.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// Client with one connection.
#[derive(Debug, Clone)]
pub(crate) struct Client(Channel);

impl Client {
    pub(crate) async fn connect(server: &MeasuredServer) -> Self {
        Self::connect_to(&server.url()).await
    }

    pub(crate) async fn connect_to(url: &str) -> Self {
        Self(endpoint::connect(url).await.unwrap())
    }

    pub(crate) fn store(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.0.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn byte_stream(&self) -> ByteStreamClient<Channel> {
        ByteStreamClient::new(self.0.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn action_cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.0.clone())
    }

    pub(crate) fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.0.clone())
    }

    /// Uploads small blobs in one batch; panics unless the server accepts each of them.
    pub(crate) async fn upload(&self, blobs: Vec<(Digest, Vec<u8>)>) {
        let requests = blobs
            .into_iter()
            .map(|(digest, data)| Request {
                digest: Some(digest.to_wire()),
                data,
                ..Request::default()
            })
            .collect();
        let request = reapi::BatchUpdateBlobsRequest {
            requests,
            digest_function: FUNCTION.to_wire(),
            ..reapi::BatchUpdateBlobsRequest::default()
        };
        let response = self.store().batch_update_blobs(request).await.unwrap();
        for part in response.into_inner().responses {
            let code = part.status.as_ref().map_or(0, |status| status.code);
            assert_eq!(code, 0, "{part:?}");
        }
    }
}

/// Incompressible bytes, different for every `seed`.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A small blob with its digest.
pub(crate) fn blob(data: Vec<u8>) -> (Digest, Vec<u8>) {
    (FUNCTION.digest(&data), data)
}
