//! The node properties of bitzel: mode, modification time and hardlink group.

use bitzel_proto::google::protobuf::{Timestamp, UInt32Value};
use bitzel_proto::reapi::{NodeProperties, NodeProperty};

use crate::error::Error;

/// Name of the property that makes several files names of one inode. Its value is the path of the first of them,
/// relative to the input root.
pub const HARDLINK_GROUP: &str = "hardlink-group";

/// The modification time of nodes that set none: 2000-01-01 00:00 UTC. The value is fixed, so that a command does not see
/// when a worker fetched a file. It is not 0, because some archivers refuse that.
pub const DEFAULT_MTIME: Mtime = Mtime {
    seconds: 946_684_800,
    nanos: 0,
};

/// The modification time of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mtime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanos: u32,
}

impl Mtime {
    /// The time as an argument of system calls.
    pub fn timespec(self) -> rustix::fs::Timespec {
        rustix::fs::Timespec {
            tv_sec: self.seconds,
            tv_nsec: self.nanos.into(),
        }
    }

    /// Both times of a file set to this time.
    pub fn timestamps(self) -> rustix::fs::Timestamps {
        rustix::fs::Timestamps {
            last_access: self.timespec(),
            last_modification: self.timespec(),
        }
    }

    /// The time as a message.
    pub fn to_wire(self) -> Timestamp {
        Timestamp {
            seconds: self.seconds,
            nanos: self.nanos.try_into().unwrap_or(0),
        }
    }

    /// The modification time of a file on disk.
    pub fn of_file(status: &rustix::fs::Stat) -> Self {
        Self {
            seconds: status.st_mtime,
            nanos: u32::try_from(status.st_mtime_nsec).unwrap_or(0),
        }
    }

    fn from_wire(timestamp: &Timestamp) -> Self {
        let mut seconds = timestamp.seconds;
        // Timestamps lie between the years 0001 and 9999. Times beyond would overflow file systems.
        seconds = seconds.clamp(-62_135_596_800, 253_402_300_799);
        let nanos = u32::try_from(timestamp.nanos).unwrap_or(0).min(999_999_999);
        Self { seconds, nanos }
    }
}

/// The modification time that a node sets.
pub fn mtime(properties: Option<&NodeProperties>) -> Option<Mtime> {
    properties?.mtime.as_ref().map(Mtime::from_wire)
}

/// The mode that a node sets: permission, setuid, setgid and sticky bits.
pub fn unix_mode(properties: Option<&NodeProperties>) -> Option<u32> {
    properties?.unix_mode.map(|mode| mode.value & 0o7777)
}

/// The hardlink group that a node sets.
pub fn hardlink_group(properties: Option<&NodeProperties>) -> Option<&str> {
    let properties = &properties?.properties;
    let property = properties
        .iter()
        .find(|property| property.name == HARDLINK_GROUP)?;
    Some(&property.value)
}

/// The properties that outputs carry, from `Command.output_node_properties`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OutputProperties {
    /// Modification times.
    pub mtime: bool,
    /// Modes.
    pub unix_mode: bool,
    /// Hardlink groups. A Command that asks for modification times gets them, too: restoring a tree exactly takes both.
    pub hardlink_group: bool,
}

impl OutputProperties {
    /// Reads the names that a Command lists. The specification requires that unknown ones are refused.
    pub fn from_names(names: &[String]) -> Result<Self, Error> {
        let is_known = |name: &&String| ["mtime", "unix_mode", HARDLINK_GROUP].contains(&name.as_str());
        if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
            return Err(Error::InvalidAction(format!(
                "output_node_properties: {unknown:?} is not known; use mtime, unix_mode or {HARDLINK_GROUP}"
            )));
        }
        let has = |known: &str| names.iter().any(|name| name == known);
        Ok(Self {
            mtime: has("mtime"),
            unix_mode: has("unix_mode"),
            hardlink_group: has("mtime") || has(HARDLINK_GROUP),
        })
    }

    /// The requested ones among these properties, or `None` if none is requested.
    pub fn node_properties(self, mode: u32, mtime: Mtime, group: Option<&str>) -> Option<NodeProperties> {
        let group = group.filter(|_| self.hardlink_group);
        if !self.mtime && !self.unix_mode && group.is_none() {
            return None;
        }
        let property = |value: &str| NodeProperty {
            name: HARDLINK_GROUP.into(),
            value: value.into(),
        };
        Some(NodeProperties {
            properties: group.map(property).into_iter().collect(),
            mtime: self.mtime.then(|| mtime.to_wire()),
            unix_mode: self.unix_mode.then_some(UInt32Value { value: mode & 0o7777 }),
        })
    }
}
