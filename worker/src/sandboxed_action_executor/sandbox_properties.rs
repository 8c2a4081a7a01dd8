//! Platform properties that configure the sandbox of an Action.

use bitzel_proto::platform_property::ROOT_IMAGE;
use bitzel_proto::reapi::Platform;
use bitzel_proto::{Digest, DigestFunction};

use crate::error::Error;

/// The properties of one Action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SandboxProperties {
    /// True if the command sees the network of this machine (`network=on`).
    pub network: bool,
    /// True if the command may create user namespaces (`user-namespaces=on`).
    pub user_namespaces: bool,
    /// True if writes outside the declared outputs fail the Action (`undeclared-writes=error`).
    pub undeclared_writes_fail: bool,
    /// Image root that the command runs in (`root-image=HASH/SIZE`). `None` for the root of this machine.
    pub image_root: Option<Digest>,
}

impl SandboxProperties {
    /// Reads the properties of a platform. Digests are those of `function`.
    pub(super) fn of_platform(platform: Option<&Platform>, function: DigestFunction) -> Result<Self, Error> {
        let image_root = value(platform, ROOT_IMAGE).map(|text| digest(function, text));
        Ok(Self {
            network: value(platform, "network") == Some("on"),
            user_namespaces: value(platform, "user-namespaces") == Some("on"),
            undeclared_writes_fail: value(platform, "undeclared-writes") == Some("error"),
            image_root: image_root.transpose()?,
        })
    }
}

fn digest(function: DigestFunction, text: &str) -> Result<Digest, Error> {
    let parts = text.split_once('/');
    let size = parts.and_then(|(hash, size)| Some((hash, size.parse::<i64>().ok()?)));
    size.and_then(|(hash, size)| Digest::from_parts(function, hash, size).ok())
        .ok_or_else(|| {
            Error::InvalidAction(format!(
                "the platform property {ROOT_IMAGE}={text:?} is not the digest of a Directory: write HASH/SIZE"
            ))
        })
}

fn value<'platform>(platform: Option<&'platform Platform>, name: &str) -> Option<&'platform str> {
    let property = platform?
        .properties
        .iter()
        .find(|property| property.name == name)?;
    Some(&property.value)
}
