//! Names of platform properties that clients, the scheduler and workers share.

/// Identity of the root file system in which an Action runs. Workers offer it, builds of BitBake require it. The value is
/// an opaque text for everybody but the worker that computes it.
pub const ROOT_IDENTITY: &str = "root-identity";

/// Value of [`ROOT_IDENTITY`] for Actions that name an image root. Each worker that knows [`ROOT_IMAGE`] offers it: one
/// that does not would run the Action in its own root.
pub const IMAGE_ROOT_IDENTITY: &str = "image";

/// Image root of an Action: the digest of the Directory, `HASH/SIZE`, that the worker fetches and mounts as the root file
/// system of the command.
pub const ROOT_IMAGE: &str = "root-image";
