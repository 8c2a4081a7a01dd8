//! Names of platform properties that clients, the scheduler and workers share.

/// Identity of the root file system in which an Action runs. Workers offer it, builds of BitBake require it. The value is
/// an opaque text for everybody but the worker that computes it.
pub const ROOT_IDENTITY: &str = "root-identity";
