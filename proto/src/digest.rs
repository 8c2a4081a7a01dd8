//! Names of blobs.

use std::fmt;

use faster_hex::{CheckCase, hex_decode_array_with_case, hex_string};
use prost::Message;

use crate::digest_function::DigestFunction;
use crate::reapi;

/// Name of a blob: hash, size, and digest function.
///
/// A digest is built only from checked input, so its hash is never malformed. Two digests with the same hash and different
/// sizes name different blobs: a wrong size MUST be rejected.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    function: DigestFunction,
    hash: [u8; 32],
    size_bytes: u64,
}

/// Error of a digest on the wire.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDigest {
    /// The message field is not set.
    #[error("the digest is missing")]
    Missing,
    /// The hash is not 64 lower-case hex digits.
    #[error("digest hash {0:?} is not 64 lower-case hexadecimal digits")]
    Hash(String),
    /// The size is negative.
    #[error("digest size {0} is negative")]
    Size(i64),
    /// bitzel does not support the digest function.
    #[error("digest function {0} is not supported; use SHA256 or BLAKE3")]
    Function(i32),
}

impl Digest {
    /// Creates a digest from its parts.
    pub fn new(function: DigestFunction, hash: [u8; 32], size_bytes: u64) -> Self {
        Self {
            function,
            hash,
            size_bytes,
        }
    }

    /// Encodes a message and computes the digest of the encoding, by which Directories, Commands and Actions are named.
    pub fn of_message(function: DigestFunction, message: &impl Message) -> (Self, Vec<u8>) {
        let bytes = message.encode_to_vec();
        (function.digest(&bytes), bytes)
    }

    /// Reads a digest from the wire, with the digest function of its request.
    pub fn from_wire(function: DigestFunction, digest: &reapi::Digest) -> Result<Self, InvalidDigest> {
        Self::from_parts(function, &digest.hash, digest.size_bytes)
    }

    /// Reads a digest as [`Digest::from_wire`] does, from a message field that may be absent.
    pub fn from_wire_field(
        function: DigestFunction,
        digest: Option<&reapi::Digest>,
    ) -> Result<Self, InvalidDigest> {
        Self::from_wire(function, digest.ok_or(InvalidDigest::Missing)?)
    }

    /// Reads a digest from a hash in hex and a size.
    pub fn from_parts(function: DigestFunction, hash: &str, size_bytes: i64) -> Result<Self, InvalidDigest> {
        let bytes = hex_decode_array_with_case(hash.as_bytes(), CheckCase::Lower)
            .map_err(|_| InvalidDigest::Hash(hash.chars().take(80).collect()))?;
        let size_bytes = u64::try_from(size_bytes).map_err(|_| InvalidDigest::Size(size_bytes))?;
        Ok(Self {
            function,
            hash: bytes,
            size_bytes,
        })
    }

    /// The digest function.
    pub fn function(&self) -> DigestFunction {
        self.function
    }

    /// The hash.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// The hash as 64 lower-case hex digits.
    pub fn hash_hex(&self) -> String {
        hex_string(&self.hash)
    }

    /// The blob's size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// True if this names the empty blob, which always exists, even if it was never uploaded.
    pub fn is_empty_blob(&self) -> bool {
        self.size_bytes == 0 && *self == self.function.digest(&[])
    }

    /// The digest on the wire.
    pub fn to_wire(&self) -> reapi::Digest {
        reapi::Digest {
            hash: self.hash_hex(),
            size_bytes: self.size_bytes.try_into().unwrap_or(i64::MAX),
        }
    }
}

impl From<Digest> for reapi::Digest {
    fn from(digest: Digest) -> Self {
        digest.to_wire()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.hash_hex(), self.size_bytes)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?}:{self}", self.function)
    }
}

#[cfg(test)]
mod tests;
