//! Names of platform properties that clients, the scheduler and workers share.

use crate::reapi::Platform;
use crate::{Digest, DigestFunction};

/// Identity of the root file system in which an Action runs. Workers offer it, builds of BitBake require it. The value is
/// an opaque text for everybody but the worker that computes it.
pub const ROOT_IDENTITY: &str = "root-identity";

/// Value of [`ROOT_IDENTITY`] for Actions that name an image root. Each worker that knows [`ROOT_IMAGE`] offers it: one
/// that does not would run the Action in its own root.
pub const IMAGE_ROOT_IDENTITY: &str = "image";

/// Root file system of an Action: the digest of a Directory, `HASH/SIZE`, that the worker fetches and mounts as the root
/// file system of the command, or [`INPUT_ROOT`].
pub const ROOT_IMAGE: &str = "root-image";

/// Value of [`ROOT_IMAGE`] for Actions that bring their root file system as their input root, as those of `BuildStream` do.
pub const INPUT_ROOT: &str = "input-root";

/// Root file system in which a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootFileSystem {
    /// That of the worker's machine, read-only. The input root is at `/work`.
    #[default]
    Machine,
    /// An image root, read-only: the digest of a Directory. The input root is at `/work`.
    Image(Digest),
    /// The input root itself.
    InputRoot,
}

/// The value of [`ROOT_IMAGE`] is neither a digest nor [`INPUT_ROOT`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the platform property {ROOT_IMAGE}={0:?} is not the digest of a Directory: write HASH/SIZE, or {INPUT_ROOT} if the \
     input root is the root file system"
)]
pub struct InvalidImageRoot(pub String);

/// Root file system that a platform names, of two the first. Server and worker both read it here: the server checks that
/// the client may use the root, so the worker must not find another one.
pub fn root_file_system(
    platform: &Platform,
    function: DigestFunction,
) -> Result<RootFileSystem, InvalidImageRoot> {
    let mut properties = platform.properties.iter();
    let Some(property) = properties.find(|property| property.name == ROOT_IMAGE) else {
        return Ok(RootFileSystem::Machine);
    };
    let text = &property.value;
    if text == INPUT_ROOT {
        return Ok(RootFileSystem::InputRoot);
    }
    let parts = text.split_once('/');
    let size = parts.and_then(|(hash, size)| Some((hash, size.parse::<i64>().ok()?)));
    size.and_then(|(hash, size)| Digest::from_parts(function, hash, size).ok())
        .map(RootFileSystem::Image)
        .ok_or_else(|| InvalidImageRoot(text.clone()))
}
