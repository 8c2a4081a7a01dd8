//! Names of platform properties that clients, the scheduler and workers share.

use crate::reapi::Platform;
use crate::{Digest, DigestFunction};

/// Identity of the root file system in which an Action runs. Workers offer it, builds of BitBake require it. The value is
/// an opaque text for everybody but the worker that computes it.
pub const ROOT_IDENTITY: &str = "root-identity";

/// Value of [`ROOT_IDENTITY`] for Actions that name an image root. Each worker that knows [`ROOT_IMAGE`] offers it: one
/// that does not would run the Action in its own root.
pub const IMAGE_ROOT_IDENTITY: &str = "image";

/// Image root of an Action: the digest of the Directory, `HASH/SIZE`, that the worker fetches and mounts as the root file
/// system of the command.
pub const ROOT_IMAGE: &str = "root-image";

/// The value of [`ROOT_IMAGE`] is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the platform property {ROOT_IMAGE}={0:?} is not the digest of a Directory: write HASH/SIZE")]
pub struct InvalidImageRoot(pub String);

/// Image root that a platform names, of two the first. Server and worker both read it here: the server checks that the
/// client may use the root, so the worker must not find another one.
pub fn image_root(platform: &Platform, function: DigestFunction) -> Result<Option<Digest>, InvalidImageRoot> {
    let mut properties = platform.properties.iter();
    let Some(property) = properties.find(|property| property.name == ROOT_IMAGE) else {
        return Ok(None);
    };
    let text = &property.value;
    let parts = text.split_once('/');
    let size = parts.and_then(|(hash, size)| Some((hash, size.parse::<i64>().ok()?)));
    size.and_then(|(hash, size)| Digest::from_parts(function, hash, size).ok())
        .map(Some)
        .ok_or_else(|| InvalidImageRoot(text.clone()))
}
