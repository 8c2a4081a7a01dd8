//! What separates the users of one server.

use std::fmt;

/// Keywords of resource names: an instance name must not have them as a segment (`remote_execution.proto`).
const RESERVED: [&str; 6] = [
    "blobs",
    "uploads",
    "actions",
    "actionResults",
    "operations",
    "capabilities",
];

/// The name of an instance of the server's services: empty, or segments joined by slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct InstanceName(String);

/// A name that no instance can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instance name {name:?}: {reason}")]
pub struct InvalidInstanceName {
    name: String,
    reason: &'static str,
}

impl InstanceName {
    /// Checks `name`: no empty segment, none of the keywords of resource names, at most 255 bytes.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidInstanceName> {
        let name = name.into();
        let reason = if name.is_empty() {
            return Ok(Self(name));
        } else if name.len() > 255 {
            "is longer than 255 bytes"
        } else if name.split('/').any(str::is_empty) {
            "has an empty segment; write it without leading, trailing or double slashes"
        } else if name.split('/').any(|segment| RESERVED.contains(&segment)) {
            "has a segment that is a keyword of resource names (blobs, uploads, actions, actionResults, operations, capabilities)"
        } else {
            return Ok(Self(name));
        };
        Err(InvalidInstanceName { name, reason })
    }

    /// A name for the server's own use, which [`InstanceName::new`] refuses and therefore no client can give.
    pub fn reserved(purpose: &str) -> Self {
        Self(format!("capabilities/{purpose}"))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}
