//! Least permission of a method, by its path alone.
//!
//! The services check the permission on the instance. This check comes before, without reading the request, and covers
//! methods that nobody has classified.

use crate::permission::Permission;

/// Permission that a method requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Required {
    /// None: everybody who can connect may call it.
    Nothing,
    /// Any permission.
    Anything,
    /// One of these permissions, on at least one instance.
    OneOf(&'static [Permission]),
}

/// Permission that the gRPC method at `path` (`/package.Service/Method`) requires at least. Methods that are not listed
/// are for administrators.
pub fn required_permission(path: &str) -> Required {
    use Permission::{ActionCacheRead, ActionCacheWrite, Admin, CasRead, CasWrite, Execute, Worker};
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let (service, method) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match (service, method) {
        // Load balancers have no credentials; the answer is one bit.
        // The schedulers of a group prove themselves to each other by a key that they share, which the service checks.
        ("grpc.health.v1.Health" | "externalscaler.ExternalScaler", _) => Required::Nothing,
        (
            "build.bazel.remote.execution.v2.Capabilities"
            | "grpc.reflection.v1.ServerReflection"
            | "grpc.reflection.v1alpha.ServerReflection",
            _,
        ) => Required::Anything,
        (
            "build.bazel.remote.execution.v2.ContentAddressableStorage",
            "BatchReadBlobs" | "GetTree" | "SplitBlob" | "GetChunkMapping",
        )
        | ("google.bytestream.ByteStream", "Read") => Required::OneOf(&[CasRead]),
        ("build.bazel.remote.execution.v2.ContentAddressableStorage", "FindMissingBlobs") => {
            Required::OneOf(&[CasRead, CasWrite])
        }
        (
            "build.bazel.remote.execution.v2.ContentAddressableStorage",
            "BatchUpdateBlobs" | "SpliceBlob" | "RegisterChunkMapping",
        )
        | ("google.bytestream.ByteStream", "Write" | "QueryWriteStatus") => Required::OneOf(&[CasWrite]),
        ("build.bazel.remote.execution.v2.ActionCache", "GetActionResult") => {
            Required::OneOf(&[ActionCacheRead])
        }
        ("build.bazel.remote.execution.v2.ActionCache", "UpdateActionResult") => {
            Required::OneOf(&[ActionCacheWrite])
        }
        // A build on the server is a series of executions.
        ("build.bazel.remote.execution.v2.Execution", _) | ("bitzel.builds.v1.Builds", "StartBuild") => {
            Required::OneOf(&[Execute])
        }
        // Who may execute sees the own Actions and builds, and the state of the farm that runs them. An operator sees and
        // ends the builds of others.
        ("bitzel.farm.v1.Farm", "GetFarm")
        | ("bitzel.builds.v1.Builds", "AttachBuild" | "CancelBuild" | "ListBuilds") => {
            Required::OneOf(&[Execute, Admin])
        }
        ("bitzel.worker.v1.WorkerQueue", _) => Required::OneOf(&[Worker]),
        // The content behind a name is a claim, as a result is. Fetching makes the server store what it fetched.
        ("build.bazel.remote.asset.v1.Fetch", _) => Required::OneOf(&[ActionCacheRead]),
        ("build.bazel.remote.asset.v1.Push", _) => Required::OneOf(&[ActionCacheWrite]),
        _ => Required::OneOf(&[Admin]),
    }
}
