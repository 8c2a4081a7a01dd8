//! Platform properties that configure the sandbox of an Action.

use bitzel_proto::reapi::Platform;

/// The properties of one Action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SandboxProperties {
    /// True if the command sees the network of this machine (`network=on`).
    pub network: bool,
    /// True if the command may create user namespaces (`user-namespaces=on`).
    pub user_namespaces: bool,
    /// True if writes outside the declared outputs fail the Action (`undeclared-writes=error`).
    pub undeclared_writes_fail: bool,
}

impl SandboxProperties {
    /// Reads the properties of a platform.
    pub(super) fn of_platform(platform: Option<&Platform>) -> Self {
        Self {
            network: value(platform, "network") == Some("on"),
            user_namespaces: value(platform, "user-namespaces") == Some("on"),
            undeclared_writes_fail: value(platform, "undeclared-writes") == Some("error"),
        }
    }
}

fn value<'platform>(platform: Option<&'platform Platform>, name: &str) -> Option<&'platform str> {
    let property = platform?
        .properties
        .iter()
        .find(|property| property.name == name)?;
    Some(&property.value)
}
