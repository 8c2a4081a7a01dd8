//! Digest functions that bitzel supports.

use sha2::Digest as _;

use crate::digest::Digest;
use crate::reapi;

/// A digest function of the Remote Execution API that bitzel supports. Both make 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum DigestFunction {
    /// SHA-256, which every client and cache supports. The default, also for a request without a digest function.
    #[default]
    Sha256,
    /// BLAKE3, 32-byte output.
    Blake3,
}

impl DigestFunction {
    /// All supported functions, in the order in which capabilities list them.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Blake3];

    /// Reads the function of a request. `UNKNOWN` (0) means that the client left it out: for a hash of 64 hex digits that is
    /// SHA-256. `None` for functions that bitzel does not support.
    pub fn from_wire(value: i32) -> Option<Self> {
        match reapi::digest_function::Value::try_from(value) {
            Ok(reapi::digest_function::Value::Unknown | reapi::digest_function::Value::Sha256) => {
                Some(Self::Sha256)
            }
            Ok(reapi::digest_function::Value::Blake3) => Some(Self::Blake3),
            _ => None,
        }
    }

    /// The value of `DigestFunction.Value` on the wire.
    pub fn to_wire(self) -> i32 {
        match self {
            Self::Sha256 => reapi::digest_function::Value::Sha256.into(),
            Self::Blake3 => reapi::digest_function::Value::Blake3.into(),
        }
    }

    /// Segment before the hash in resource names and precondition failures. SHA-256 MUST be left out, BLAKE3 MUST be given (`remote_execution.proto`, `digest_function` in resource names).
    pub fn resource_segment(self) -> Option<&'static str> {
        match self {
            Self::Sha256 => None,
            Self::Blake3 => Some("blake3"),
        }
    }

    /// Name in the names of files and objects that bitzel writes. It must never change, because written data stays.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }

    /// Finds the function with this [`DigestFunction::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name)
    }

    /// Creates a hasher.
    pub fn hasher(self) -> Hasher {
        Hasher {
            function: self,
            size_bytes: 0,
            state: match self {
                Self::Sha256 => HasherState::Sha256(sha2::Sha256::new()),
                Self::Blake3 => HasherState::Blake3(Box::new(blake3::Hasher::new())),
            },
        }
    }

    /// Computes the digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Hasher that also counts bytes, so that it gives a complete [`Digest`].
#[derive(Clone)]
pub struct Hasher {
    function: DigestFunction,
    size_bytes: u64,
    state: HasherState,
}

#[derive(Clone)]
enum HasherState {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size_bytes += bytes.len() as u64;
        match &mut self.state {
            HasherState::Sha256(state) => state.update(bytes),
            HasherState::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// Bytes hashed so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Computes the digest of all bytes that were added.
    pub fn finish(self) -> Digest {
        let hash = match self.state {
            HasherState::Sha256(state) => state.finalize().into(),
            HasherState::Blake3(state) => state.finalize().into(),
        };
        Digest::new(self.function, hash, self.size_bytes)
    }
}

impl std::io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_function_is_found_by_its_name() {
        assert_eq!(
            DigestFunction::ALL.map(DigestFunction::name),
            ["sha256", "blake3"]
        );
        for function in DigestFunction::ALL {
            assert_eq!(DigestFunction::from_name(function.name()), Some(function));
        }
        assert_eq!(DigestFunction::from_name("SHA256"), None);
    }
}
