//! Identifiers of operations, workers and leases.

use std::fmt;
use std::sync::Arc;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use uuid::Uuid;

/// Identifier of an operation. Everybody who has it may follow the operation, so it must not be guessable: the caller of
/// the queue draws it at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(pub Uuid);

/// Identifier of one registration of a worker. A worker that connects again gets another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId(pub(super) u64);

/// Identifier of a lease of an Action: one attempt of a worker to run it. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// A worker that holds leases.
#[derive(Debug, Clone)]
pub struct LeaseHolder {
    /// Its name, for people.
    pub worker: Arc<str>,
    /// Proof of the instance that got the lease.
    pub proof: HolderProof,
}

/// Proof that a worker is the instance that got a lease. It is equal for each stream of that instance, and for no other.
#[derive(Clone, Copy, Eq)]
pub struct HolderProof([u8; SHA256_OUTPUT_LEN]);

impl HolderProof {
    /// Proof in bytes that the worker and the server alone can make.
    pub fn new(secret: &[u8]) -> Self {
        let mut proof = [0; SHA256_OUTPUT_LEN];
        proof.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(proof)
    }

    /// The proof that a journal has. An older version kept none: then no instance has it.
    pub fn from_journal(bytes: &[u8]) -> Self {
        Self(bytes.try_into().unwrap_or_default())
    }

    /// The bytes for a journal. They do not help to come back with a lease.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for HolderProof {
    /// Compares in a time that does not depend on the place of the first difference.
    fn eq(&self, other: &Self) -> bool {
        let bytes = self.0.iter().zip(&other.0);
        bytes.fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
    }
}

impl fmt::Debug for HolderProof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HolderProof")
    }
}
