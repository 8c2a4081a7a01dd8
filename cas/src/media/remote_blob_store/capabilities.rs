//! Capabilities of a server that a client of its store depends on.

use bitzel_proto::reapi::capabilities_client::CapabilitiesClient;
use bitzel_proto::reapi::{CacheCapabilities, GetCapabilitiesRequest, compressor};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bitzel_rpc::endpoint::Channel;
use tonic::Code;

use crate::error::Error;
use crate::retry::retried;

/// Largest message that a gRPC peer accepts by default. No batch exceeds it, whatever the server allows: larger batches
/// would save no more latency.
const GRPC_MESSAGE_LIMIT_BYTES: u64 = 4 << 20;

/// Capabilities that a server announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerCapabilities {
    /// Limit of one batch in bytes, overhead included.
    pub(super) batch_limit: u64,
    /// Digest functions that the server supports.
    functions: Vec<DigestFunction>,
    /// True if streams, and batches that are read, may be compressed with Zstandard.
    pub(super) zstd: bool,
    /// True if batches that are written may be compressed with Zstandard.
    pub(super) zstd_batch_update: bool,
}

impl Default for ServerCapabilities {
    /// Capabilities of a server that announces none: the minimum for every server.
    fn default() -> Self {
        Self::of(&CacheCapabilities::default())
    }
}

impl ServerCapabilities {
    /// Asks the server. For a server without the service, or without cache capabilities, the minimum is assumed.
    pub(super) async fn ask(channel: &Channel, instance: &InstanceName) -> Result<Self, Error> {
        let ask = async || {
            let request = GetCapabilitiesRequest {
                instance_name: instance.to_string(),
            };
            let asked = CapabilitiesClient::new(channel.clone())
                .get_capabilities(request)
                .await;
            match asked {
                Ok(response) => Ok(response.into_inner().cache_capabilities),
                Err(status) if status.code() == Code::Unimplemented => Ok(None),
                Err(status) => Err(Error::remote("cannot ask the server for its capabilities")(
                    status,
                )),
            }
        };
        Ok(retried(ask).await?.as_ref().map(Self::of).unwrap_or_default())
    }

    fn of(cache: &CacheCapabilities) -> Self {
        // Zero means that the server sets no limit; that of gRPC remains.
        let batch_limit = match u64::try_from(cache.max_batch_total_size_bytes) {
            Ok(0) | Err(_) => GRPC_MESSAGE_LIMIT_BYTES,
            Ok(limit) => limit.min(GRPC_MESSAGE_LIMIT_BYTES),
        };
        let announced = |function: &DigestFunction| cache.digest_functions.contains(&function.to_wire());
        let functions = if cache.digest_functions.is_empty() {
            vec![DigestFunction::Sha256]
        } else {
            DigestFunction::ALL.into_iter().filter(announced).collect()
        };
        let zstd = i32::from(compressor::Value::Zstd);
        Self {
            batch_limit,
            functions,
            zstd: cache.supported_compressors.contains(&zstd),
            zstd_batch_update: cache.supported_batch_update_compressors.contains(&zstd),
        }
    }

    /// The same capabilities without compression.
    pub(super) fn without_compression(self) -> Self {
        Self {
            zstd: false,
            zstd_batch_update: false,
            ..self
        }
    }

    /// Refuses a digest of a function that the server does not support: it would read the hash as one of another function.
    pub(super) fn check(&self, digest: Digest) -> Result<(), Error> {
        self.check_function(digest.function())
    }

    pub(super) fn check_function(&self, function: DigestFunction) -> Result<(), Error> {
        if self.functions.contains(&function) {
            return Ok(());
        }
        Err(Error::InvalidArgument(format!(
            "the remote store does not support {function:?}, only {:?}; choose that digest function, or another store",
            self.functions
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_limit_is_at_most_that_of_grpc() {
        for (announced, limit) in [
            (0, 4 << 20),
            (1 << 20, 1 << 20),
            (1 << 30, 4 << 20),
            (-1, 4 << 20),
        ] {
            let cache = CacheCapabilities {
                max_batch_total_size_bytes: announced,
                ..CacheCapabilities::default()
            };
            assert_eq!(ServerCapabilities::of(&cache).batch_limit, limit);
        }
    }

    #[test]
    fn capabilities_that_are_not_announced_are_not_used() {
        let none = ServerCapabilities::default();
        assert!(!none.zstd && !none.zstd_batch_update);
        none.check_function(DigestFunction::Sha256).unwrap();
        let error = none
            .check_function(DigestFunction::Blake3)
            .unwrap_err()
            .to_string();
        assert!(error.contains("Blake3") && error.contains("[Sha256]"), "{error}");
        let blake3_only = ServerCapabilities::of(&CacheCapabilities {
            digest_functions: vec![DigestFunction::Blake3.to_wire(), 77],
            ..CacheCapabilities::default()
        });
        assert!(blake3_only.check_function(DigestFunction::Sha256).is_err());
        blake3_only.check_function(DigestFunction::Blake3).unwrap();
    }
}
