//! Errors of builds on the server.

use std::io;
use std::path::PathBuf;

use bitzel_graph::walk::BuildError;
use bitzel_proto::missing_blobs::missing_blobs_status;
use bitzel_proto::{Digest, InvalidDigest, InvalidInstanceName, with_causes};
use tonic::{Code, Status};

/// Maximum number of missing blobs that a status names: it travels in the headers of the response.
const MAX_NAMED_MISSING_BLOBS: usize = 32;

/// Error of a call, or of a build as a whole.
#[derive(Debug, thiserror::Error)]
pub enum BuildsError {
    /// The caller sees no such build.
    #[error("there is no build {0}; `bitzel builds` lists those that are known")]
    NotFound(String),
    /// The caller has no build.
    #[error("you have no build on this server; name one of `bitzel builds`")]
    NoOwnBuild,
    /// Several builds begin like that.
    #[error("several builds begin with {0}; write more of the name")]
    Ambiguous(String),
    /// Somebody else owns the build.
    #[error("the build {build} belongs to {owner}; only the owner and operators cancel it")]
    OtherOwner {
        /// The build.
        build: String,
        /// Its owner.
        owner: String,
    },
    /// Another build has the identifier.
    #[error("another build has this identifier")]
    IdTaken,
    /// The server walks as many builds as it may.
    #[error("the server walks {0} builds already, its limit (execution.builds.max_running)")]
    TooManyBuilds(usize),
    /// The user has as many builds as allowed.
    #[error("{user} has {limit} running builds already, the limit of each user; wait for one, or cancel one")]
    TooManyBuildsOfUser {
        /// The user.
        user: String,
        /// The limit.
        limit: usize,
    },
    /// The identifier is not a UUID.
    #[error("the identifier of a build is a UUID")]
    Id,
    /// The instance name is malformed.
    #[error(transparent)]
    Instance(#[from] InvalidInstanceName),
    /// A digest is malformed.
    #[error("{field} is malformed")]
    Digest {
        /// The field.
        field: &'static str,
        /// The defect.
        #[source]
        source: InvalidDigest,
    },
    /// A blob is larger than allowed.
    #[error("the {what} {digest} is larger than {limit} bytes, the limit of this server")]
    TooLarge {
        /// Kind of the blob.
        what: &'static str,
        /// The blob.
        digest: Digest,
        /// The limit.
        limit: u64,
    },
    /// A blob has another type of message.
    #[error("the {what} cannot be decoded")]
    Malformed {
        /// Kind of the blob.
        what: &'static str,
        /// The defect.
        #[source]
        source: bitzel_proto::message_memory::MessageError,
    },
    /// The plan has another version.
    #[error("the plan has format {0}, and this server knows another one; use the same version of bitzel")]
    Format(u32),
    /// The plan cannot be walked on a server.
    #[error("{0}")]
    Unsuitable(String),
    /// Blobs of the plan are not in the store.
    #[error("{} of the build's own files are not in the store (evicted?); hand the build over again", .0.len())]
    MissingBlobs(Vec<Digest>),
    /// The store failed.
    #[error("{context}")]
    Store {
        /// The purpose of the call.
        context: &'static str,
        /// The store's error.
        #[source]
        source: Box<bitzel_cas::Error>,
    },
    /// The walk failed.
    #[error(transparent)]
    Walk(#[from] BuildError),
    /// A file of the client cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The server has a defect.
    #[error("the walk of the build ended by a defect of the server, which its log has")]
    Panicked,
    /// Somebody cancelled the build before it was taken over.
    #[error("the build was cancelled while the server read it")]
    Cancelled,
    /// The server ends, or does not lead any more.
    #[error("the server is shutting down; try again")]
    ShuttingDown,
}

impl BuildsError {
    /// For `map_err`: a failed store call.
    pub(crate) fn store(context: &'static str) -> impl FnOnce(bitzel_cas::Error) -> Self {
        move |source| Self::Store {
            context,
            source: Box::new(source),
        }
    }

    /// For `map_err`: a malformed digest.
    pub(crate) fn digest(field: &'static str) -> impl FnOnce(InvalidDigest) -> Self {
        move |source| Self::Digest { field, source }
    }
}

impl From<BuildsError> for Status {
    fn from(error: BuildsError) -> Self {
        let code = match &error {
            BuildsError::MissingBlobs(digests) => {
                return missing_blobs_status(&digests[..digests.len().min(MAX_NAMED_MISSING_BLOBS)]);
            }
            BuildsError::NotFound(_) | BuildsError::NoOwnBuild => Code::NotFound,
            BuildsError::OtherOwner { .. } => Code::PermissionDenied,
            BuildsError::IdTaken => Code::AlreadyExists,
            BuildsError::TooManyBuilds(_) | BuildsError::TooManyBuildsOfUser { .. } => {
                Code::ResourceExhausted
            }
            BuildsError::Unsuitable(_) => Code::FailedPrecondition,
            BuildsError::Ambiguous(_)
            | BuildsError::Id
            | BuildsError::Instance(_)
            | BuildsError::Digest { .. }
            | BuildsError::TooLarge { .. }
            | BuildsError::Malformed { .. }
            | BuildsError::Format(_)
            | BuildsError::Walk(BuildError::Graph(_)) => Code::InvalidArgument,
            BuildsError::Store { source, .. } => match source.code() {
                // Something of the plan is gone, not the build.
                Code::NotFound => Code::FailedPrecondition,
                code => code,
            },
            BuildsError::Cancelled => Code::Cancelled,
            BuildsError::ShuttingDown => Code::Unavailable,
            BuildsError::Walk(_) | BuildsError::File { .. } | BuildsError::Panicked => Code::Internal,
        };
        Self::new(code, with_causes(&error))
    }
}
