//! Limits of messages, which clients and servers keep alike.

/// Limit of the blobs of one batch request together, in bytes. Half a MiB less than the 4 MiB that a gRPC peer
/// takes by default, for digests and statuses.
pub const MAX_BATCH_TOTAL_SIZE: u64 = (4 << 20) - (512 << 10);

/// Limit of a gRPC message, in bytes. More than a batch may hold, so that a batch over its limit is answered with
/// what is wrong instead of a transport error.
pub const MAX_MESSAGE_SIZE: usize = 16 << 20;
