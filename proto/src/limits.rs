//! Limits of messages for clients and servers.

/// Maximum total size of the blobs in one batch request, in bytes. Half a MiB less than the 4 MiB that a gRPC peer accepts
/// by default, to leave space for digests and statuses.
pub const MAX_BATCH_TOTAL_SIZE: u64 = (4 << 20) - (512 << 10);

/// Maximum size of a gRPC message, in bytes. More than a batch may have, so that a batch over its limit gets an explaining
/// status instead of a transport error.
pub const MAX_MESSAGE_SIZE: usize = 16 << 20;
