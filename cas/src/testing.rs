//! Stores for the tests of decorators and services, and the contract of every store as a model.

#![allow(clippy::unwrap_used, reason = "only for tests")]

#[cfg(test)]
pub(crate) mod failing_action_cache;
#[cfg(test)]
pub(crate) mod failing_blob_store;
pub mod model;

use bitzel_proto::{Digest, DigestFunction};

/// SHA-256 digest of a blob.
pub fn sha256(blob: &[u8]) -> Digest {
    DigestFunction::Sha256.digest(blob)
}

/// Bytes that compress badly and differ by `seed`.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}
