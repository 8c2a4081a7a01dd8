//! The digest functions that bitzel speaks.

use sha2::Digest as _;

use crate::digest::Digest;
use crate::reapi;

/// A digest function of the Remote Execution API that bitzel supports. Both make 32 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum DigestFunction {
    /// SHA-256: what every client and cache speaks; the default, also where a request leaves the function out.
    #[default]
    Sha256,
    /// BLAKE3, 32-byte output.
    Blake3,
}

impl DigestFunction {
    /// All supported functions, in the order in which capabilities list them.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Blake3];

    /// The function that a request names by enum value. `UNKNOWN` (0) means that the client left it out: by the
    /// length of a hash of 64 hex digits that is SHA-256. `None` for functions that bitzel does not support.
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

    /// The segment that resource names and precondition failures carry before the hash. SHA-256 MUST be left
    /// out, BLAKE3 MUST be given (`remote_execution.proto`, `digest_function` in resource names).
    pub fn resource_segment(self) -> Option<&'static str> {
        match self {
            Self::Sha256 => None,
            Self::Blake3 => Some("blake3"),
        }
    }

    /// Its name in names of files and objects that bitzel writes. What was written stays: never change one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Blake3 => "blake3",
        }
    }

    /// The function with a [`DigestFunction::name`].
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|function| function.name() == name)
    }

    /// A new running hash.
    pub fn hasher(self) -> Hasher {
        Hasher {
            function: self,
            size_bytes: 0,
            state: match self {
                Self::Sha256 => State::Sha256(sha2::Sha256::new()),
                Self::Blake3 => State::Blake3(Box::new(blake3::Hasher::new())),
            },
        }
    }

    /// The digest of `bytes`.
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// A running hash that also counts its bytes, so that what it yields is a whole [`Digest`].
#[derive(Clone)]
pub struct Hasher {
    function: DigestFunction,
    size_bytes: u64,
    state: State,
}

#[derive(Clone)]
enum State {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.size_bytes += bytes.len() as u64;
        match &mut self.state {
            State::Sha256(state) => state.update(bytes),
            State::Blake3(state) => {
                state.update(bytes);
            }
        }
    }

    /// Bytes hashed so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The digest of everything that was added.
    pub fn finish(self) -> Digest {
        let hash = match self.state {
            State::Sha256(state) => state.finalize().into(),
            State::Blake3(state) => state.finalize().into(),
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
    fn functions_come_back_from_their_names() {
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
