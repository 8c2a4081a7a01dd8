//! Errors of the Execution service.

use std::time::Duration;

use bitzel_proto::{Digest, InvalidDigest, InvalidInstanceName};

use super::platform::{MAX_PLATFORM_BYTES, MAX_PLATFORM_PROPERTIES, UnmetRequirements};

/// Error of a request to the Execution service, or of an operation.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    /// The instance name of the request is malformed.
    #[error(transparent)]
    InstanceName(#[from] InvalidInstanceName),
    /// A digest in the request or in the Action is malformed.
    #[error("{field}")]
    InvalidDigest {
        /// Field of the digest.
        field: &'static str,
        /// The defect.
        source: InvalidDigest,
    },
    /// A blob is not a message of the expected type.
    #[error("blob {digest} is not a valid {message}")]
    MalformedMessage {
        /// The expected type.
        message: &'static str,
        /// The blob.
        digest: Digest,
        /// The decoder's error.
        source: bitzel_proto::message_memory::MessageError,
    },
    /// An Action or Command is too large.
    #[error("{message} {digest} is larger than the {limit} bytes that a {message} may have")]
    MessageTooLarge {
        /// The expected type.
        message: &'static str,
        /// The blob.
        digest: Digest,
        /// The limit in bytes.
        limit: u64,
    },
    /// The Action requires too many or too long platform properties.
    #[error(
        "the Action's platform has {count} properties of {bytes} bytes; at most {MAX_PLATFORM_PROPERTIES} of \
         {MAX_PLATFORM_BYTES} bytes are allowed"
    )]
    PlatformTooLarge {
        /// Number of properties.
        count: usize,
        /// Length of all names and values.
        bytes: usize,
    },
    /// A platform property that states an amount of a resource is malformed.
    #[error(
        "the platform property {name}={value} states no amount; write memory and disk space like 8GiB, and processors \
         like 2, 0.5 or 500m"
    )]
    ResourceProperty {
        /// Name of the property.
        name: String,
        /// Its value.
        value: String,
    },
    /// The Action's timeout is malformed, or longer than the server's maximum.
    #[error(
        "the Action's timeout {requested} is not between 0 s and the server's maximum of {} s; request less",
        maximum.as_secs()
    )]
    Timeout {
        /// The timeout of the Action.
        requested: String,
        /// The server's maximum.
        maximum: Duration,
    },
    /// Blobs that the Action needs are not in the store.
    #[error("{} blobs that the Action needs are missing", .0.len())]
    MissingBlobs(Vec<Digest>),
    /// The store failed.
    #[error("{context}")]
    Store {
        /// The purpose of the call.
        context: &'static str,
        /// The store's error.
        source: Box<bitzel_cas::Error>,
    },
    /// No operation has this name, or it has been forgotten.
    #[error(
        "no operation {0:?}: it never existed, was cancelled, or completed too long ago; execute it again"
    )]
    OperationNotFound(String),
    /// No connected worker has this name.
    #[error("no worker is called {0:?}; `bitzel workers` lists them")]
    WorkerNotFound(String),
    /// The queue of Actions is full.
    #[error("{limit} Actions are already waiting for workers; try again later")]
    QueueFull {
        /// The limit.
        limit: usize,
    },
    /// The user has too many Actions in the queue.
    #[error("{limit} Actions of {user} are already waiting for workers; try again later")]
    UserQueueFull {
        /// The user.
        user: String,
        /// The limit.
        limit: usize,
    },
    /// Actions with too many different sets of platform properties wait.
    #[error(
        "Actions with {limit} different sets of platform properties are already waiting for workers; try again later, or use \
         fewer different properties"
    )]
    TooManyPropertySets {
        /// The limit.
        limit: usize,
    },
    /// No worker could run the Action.
    #[error(
        "no worker that could run the Action for {} s; it needs one that offers: {requirements}",
        waited.as_secs()
    )]
    NoWorker {
        /// Platform properties that the Action requires, and those on offer.
        requirements: UnmetRequirements,
        /// Time that it waited.
        waited: Duration,
    },
    /// The Action was tried the maximum number of times, and the worker was lost or failed each time.
    #[error("gave up after {} attempts: {}", attempts.len(), attempts.join("; "))]
    AttemptsExhausted {
        /// Outcome of each attempt, with the worker's name.
        attempts: Vec<String>,
    },
    /// Too many workers were lost while they ran the Action.
    #[error(
        "the Action {action} is in quarantine for another {} s, because {} workers were lost while they ran it: {}; look \
         at their logs (does it use up their memory?) and change the Action, or execute it again after that time",
        remaining.as_secs(),
        workers.len(),
        workers.join(", ")
    )]
    Quarantined {
        /// The Action.
        action: Digest,
        /// Names of the lost workers.
        workers: Vec<String>,
        /// Time that the quarantine lasts.
        remaining: Duration,
    },
    /// A fault of the server.
    #[error("internal error: {0}")]
    Internal(&'static str),
    /// The server is shutting down.
    #[error("the server is shutting down; try again")]
    ShuttingDown,
    /// Another instance of a worker is connected under this name.
    #[error(
        "another worker is connected as {0:?}, and a second one of that name is not told apart from it: give each machine \
         that runs a worker a host name of its own; if the other one has just ended, this one is taken when the server \
         notices that"
    )]
    WorkerNameInUse(String),
    /// A worker violated the protocol.
    #[error("worker protocol: {0}")]
    WorkerProtocol(&'static str),
}

impl ExecutionError {
    /// For `map_err`: a malformed digest in `field`.
    pub(super) fn invalid_digest(field: &'static str) -> impl FnOnce(InvalidDigest) -> Self {
        move |source| Self::InvalidDigest { field, source }
    }

    /// For `map_err`: a failed store call with its purpose.
    pub(super) fn store(context: &'static str) -> impl FnOnce(bitzel_cas::Error) -> Self {
        move |source| match source {
            bitzel_cas::Error::NotFound(digest) => Self::MissingBlobs(vec![digest]),
            source => Self::Store {
                context,
                source: Box::new(source),
            },
        }
    }
}
