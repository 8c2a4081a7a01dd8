//! Names of instances, which separate the users of one server.

use std::fmt;

/// Keywords of resource names, which are not allowed as segments of an instance name (`remote_execution.proto`).
const RESERVED_SEGMENTS: [&str; 6] = [
    "blobs",
    "uploads",
    "actions",
    "actionResults",
    "operations",
    "capabilities",
];

/// First segment of the names that the server makes for its own use: a keyword, so that no client can send them.
const RESERVED_PREFIX: &str = "capabilities/";

/// Name of an instance of the server's services: empty, or segments joined by slashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct InstanceName(String);

/// Error of an instance name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("instance name {name:?}: {reason}")]
pub struct InvalidInstanceName {
    name: String,
    reason: &'static str,
}

impl InstanceName {
    /// Checks `name`: no empty segment, neither `.` nor `..`, none of the keywords of resource names, no control
    /// character, at most 255 bytes.
    ///
    /// URLs drop the segments `.` and `..`, and tabs and line ends: in a store behind HTTP, `a/..` and `b/.\t./a` would
    /// have the results of `a`.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidInstanceName> {
        let name = name.into();
        let reason = if name.is_empty() {
            return Ok(Self(name));
        } else if name.len() > 255 {
            "is longer than 255 bytes"
        } else if name.chars().any(char::is_control) {
            "has a control character, such as a tab or a line end"
        } else if name.split('/').any(str::is_empty) {
            "has an empty segment; write it without leading, trailing or double slashes"
        } else if name.split('/').any(|segment| matches!(segment, "." | "..")) {
            "has the segment `.` or `..`"
        } else if name
            .split('/')
            .any(|segment| RESERVED_SEGMENTS.contains(&segment))
        {
            "has a segment that is a keyword of resource names (blobs, uploads, actions, actionResults, operations, capabilities)"
        } else {
            return Ok(Self(name));
        };
        Err(InvalidInstanceName { name, reason })
    }

    /// Creates a name for the server's own use. [`InstanceName::new`] refuses it, so no client can send it.
    pub fn reserved(purpose: &str) -> Self {
        Self(format!("{RESERVED_PREFIX}{purpose}"))
    }

    /// Purpose of a name that [`InstanceName::reserved`] made; `None` for a name of a client.
    pub fn reserved_purpose(&self) -> Option<&str> {
        self.0.strip_prefix(RESERVED_PREFIX)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f12_dot_segments_are_refused() {
        for name in [".", "..", "a/..", "../a", "a/./b"] {
            assert!(InstanceName::new(name).is_err(), "{name}");
        }
        for name in ["", "a", "a/b", "a..b", "...", ".a"] {
            assert!(InstanceName::new(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn f12_control_characters_are_refused() {
        for name in ["a\t", "b/.\t./a", "a\r", "a\nb", "a\0", "\u{7f}", "\u{85}a"] {
            assert!(InstanceName::new(name).is_err(), "{name:?}");
        }
        assert!(InstanceName::new("\u{e9}quipe a").is_ok());
    }

    #[test]
    fn only_the_server_makes_reserved_names() {
        let name = InstanceName::reserved("values/a");
        assert_eq!(name.reserved_purpose(), Some("values/a"));
        assert!(InstanceName::new(name.as_str()).is_err());
        let clients = InstanceName::new("values/a").unwrap();
        assert_eq!(clients.reserved_purpose(), None);
    }
}
