//! Platform properties that configure the sandbox of an Action.

use bitzel_proto::DigestFunction;
use bitzel_proto::platform_property::{RootFileSystem, root_file_system};
use bitzel_proto::reapi::Platform;

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
    /// Root file system that the command runs in (`root-image=HASH/SIZE`, `root-image=input-root`).
    pub root: RootFileSystem,
}

impl SandboxProperties {
    /// Reads the properties of a platform. Digests are those of `function`.
    pub(super) fn of_platform(platform: Option<&Platform>, function: DigestFunction) -> Result<Self, Error> {
        let root = platform.map_or(Ok(RootFileSystem::Machine), |platform| {
            root_file_system(platform, function)
        });
        Ok(Self {
            network: value(platform, "network") == Some("on"),
            user_namespaces: value(platform, "user-namespaces") == Some("on"),
            undeclared_writes_fail: value(platform, "undeclared-writes") == Some("error"),
            root: root.map_err(|error| Error::InvalidAction(error.to_string()))?,
        })
    }
}

fn value<'platform>(platform: Option<&'platform Platform>, name: &str) -> Option<&'platform str> {
    let property = platform?
        .properties
        .iter()
        .find(|property| property.name == name)?;
    Some(&property.value)
}
