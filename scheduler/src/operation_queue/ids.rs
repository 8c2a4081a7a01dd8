//! Identifiers of operations, workers and leases.

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
