//! The wire types of the Remote Execution API v2 and of bitzel's own protocols, and the small value types that
//! every other crate builds on: [`Digest`], [`DigestFunction`], [`InstanceName`], [`ResourceName`].
//!
//! Nothing in this crate does I/O.

pub mod cache_path;
pub mod digest;
pub mod digest_function;
pub mod instance_name;
pub mod missing_blobs;
pub mod resource_name;
pub mod timestamp;

pub use cache_path::{CacheEntry, CachePath, InvalidCachePath};
pub use digest::{Digest, InvalidDigest};
pub use digest_function::{DigestFunction, Hasher};
pub use instance_name::{InstanceName, InvalidInstanceName};
pub use resource_name::{Compressor, InvalidResourceName, ResourceName};

/// The Remote Asset API (`build.bazel.remote.asset.v1`), from the same crate.
pub use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
/// The Remote Execution API v2 (`build.bazel.remote.execution.v2`), from the crate `bazel-remote-apis`.
pub use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
/// `google.bytestream`, `google.longrunning` and `google.rpc`, which the Remote Execution API builds on.
pub use bazel_remote_apis::google;

/// `build.bazel.semver`, the version numbers in capabilities.
pub use bazel_remote_apis::build::bazel::semver;

/// The task graph that the `BitBake` exporter writes (`bitzel.graph.v1`).
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    reason = "generated code"
)]
pub mod graph {
    tonic::include_proto!("bitzel.graph.v1");
}

/// What bitzel remembers of a finished task (`bitzel.task.v1`).
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    reason = "generated code"
)]
pub mod task {
    tonic::include_proto!("bitzel.task.v1");
}

/// How workers take Actions from the scheduler (`bitzel.worker.v1`).
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    reason = "generated code"
)]
pub mod worker {
    tonic::include_proto!("bitzel.worker.v1");
}

/// What the protocols of this crate look like, as an encoded `FileDescriptorSet`: for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
