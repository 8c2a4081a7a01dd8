//! Wire types of the Remote Execution API v2 and of bitzel's own protocols, and the value types that all other crates
//! use: [`Digest`], [`DigestFunction`], [`InstanceName`], [`ResourceName`].
//!
//! Nothing in this crate does I/O.

pub mod cache_path;
pub mod causes;
pub mod digest;
pub mod digest_function;
pub mod directory;
pub mod instance_name;
pub mod limits;
pub mod message_memory;
pub mod missing_blobs;
pub mod platform_property;
pub mod resource_name;
pub mod resource_usage;
pub mod scheduling_hint;
pub mod timestamp;

pub use cache_path::{CacheEntry, CachePath, InvalidCachePath};
pub use causes::{chain, find_status, status_text, with_causes};
pub use digest::{Digest, InvalidDigest};
pub use digest_function::{DigestFunction, Hasher};
pub use directory::{DirectoryEncoder, EncodedDirectory, InvalidDirectory, validate_directory};
pub use instance_name::{InstanceName, InvalidInstanceName};
pub use resource_name::{Compressor, InvalidResourceName, ResourceName};

/// Generated types, in modules named like the packages of the `.proto` files.
#[allow(
    missing_docs,
    unreachable_pub,
    rustdoc::all,
    clippy::all,
    clippy::pedantic,
    clippy::use_self,
    reason = "generated code"
)]
mod protocols {
    include!(concat!(env!("OUT_DIR"), "/protocols.rs"));
}

/// Builds that a server walks (`bitzel.builds.v1`).
pub use protocols::bitzel::builds::v1 as builds;
/// State of the farm for people (`bitzel.farm.v1`).
pub use protocols::bitzel::farm::v1 as farm;
/// Task graph that the `BitBake` exporter writes (`bitzel.graph.v1`).
pub use protocols::bitzel::graph::v1 as graph;
/// Result of a finished task (`bitzel.task.v1`).
pub use protocols::bitzel::task::v1 as task;
/// Protocol by which workers take Actions from the scheduler (`bitzel.worker.v1`).
pub use protocols::bitzel::worker::v1 as worker;
/// Remote Asset API (`build.bazel.remote.asset.v1`).
pub use protocols::build::bazel::remote::asset::v1 as asset;
/// Remote Execution API v2 (`build.bazel.remote.execution.v2`).
pub use protocols::build::bazel::remote::execution::v2 as reapi;
/// Version numbers in capabilities (`build.bazel.semver`).
pub use protocols::build::bazel::semver;
/// Protocol by which KEDA asks for the size of a Deployment (`externalscaler`).
pub use protocols::externalscaler as keda;
/// `google.bytestream`, `google.longrunning`, `google.rpc` and the well-known types, which REAPI builds on.
pub use protocols::google;

/// Encoded `FileDescriptorSet` of all protocols of this crate, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
