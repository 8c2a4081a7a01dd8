//! The node properties that bitzel reads and writes: mode, modification time and hardlinks.

use bitzel_proto::google::protobuf::{Timestamp, UInt32Value};
use bitzel_proto::reapi::{NodeProperties, NodeProperty};

use crate::error::Error;

/// Name of the property whose value joins files into one inode: the path of the first of them, relative to the
/// input root.
pub const HARDLINK_GROUP: &str = "hardlink-group";

/// The modification time of everything whose node does not give one: 2000-01-01 00:00 UTC. One value for all, so
/// that what a command sees does not depend on when a worker fetched it; not 0, which some archivers refuse.
pub const DEFAULT_MTIME: Mtime = Mtime {
    seconds: 946_684_800,
    nanos: 0,
};

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mtime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds after that, below 1,000,000,000.
    pub nanos: u32,
}

impl Mtime {
    /// The time as the system calls take it.
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

    /// The time on the wire.
    pub fn to_wire(self) -> Timestamp {
        Timestamp {
            seconds: self.seconds,
            nanos: self.nanos.try_into().unwrap_or(0),
        }
    }

    fn from_wire(timestamp: &Timestamp) -> Self {
        let mut seconds = timestamp.seconds;
        // Only times between 0001 and 9999 are timestamps; what is beyond would overflow file systems.
        seconds = seconds.clamp(-62_135_596_800, 253_402_300_799);
        let nanos = u32::try_from(timestamp.nanos).unwrap_or(0).min(999_999_999);
        Self { seconds, nanos }
    }
}

/// The modification time that a node asks for.
pub fn mtime(properties: Option<&NodeProperties>) -> Option<Mtime> {
    properties?.mtime.as_ref().map(Mtime::from_wire)
}

/// The mode that a node asks for: permission, setuid, setgid and sticky bits.
pub fn unix_mode(properties: Option<&NodeProperties>) -> Option<u32> {
    properties?.unix_mode.map(|mode| mode.value & 0o7777)
}

/// The hardlink group of a node.
pub fn hardlink_group(properties: Option<&NodeProperties>) -> Option<&str> {
    let properties = &properties?.properties;
    let property = properties
        .iter()
        .find(|property| property.name == HARDLINK_GROUP)?;
    Some(&property.value)
}

/// Which properties outputs carry, from `Command.output_node_properties`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WantedProperties {
    /// Modification times.
    pub mtime: bool,
    /// Modes.
    pub unix_mode: bool,
    /// Hardlink groups. They come along with modification times: whoever wants a tree back as it was needs both.
    pub hardlink_group: bool,
}

impl WantedProperties {
    /// Reads the names that a Command lists. The specification has others refused.
    pub fn from_names(names: &[String]) -> Result<Self, Error> {
        let is_known = |name: &&String| ["mtime", "unix_mode", HARDLINK_GROUP].contains(&name.as_str());
        if let Some(unknown) = names.iter().find(|name| !is_known(name)) {
            return Err(Error::InvalidAction(format!(
                "output_node_properties: {unknown:?} is not known; there are mtime, unix_mode and {HARDLINK_GROUP}"
            )));
        }
        let has = |wanted: &str| names.iter().any(|name| name == wanted);
        Ok(Self {
            mtime: has("mtime"),
            unix_mode: has("unix_mode"),
            hardlink_group: has("mtime") || has(HARDLINK_GROUP),
        })
    }

    /// The wanted ones of these properties; `None` when that is none.
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

/// The modification time of a file on disk.
pub fn mtime_of(metadata: &rustix::fs::Stat) -> Mtime {
    Mtime {
        seconds: metadata.st_mtime,
        nanos: u32::try_from(metadata.st_mtime_nsec).unwrap_or(0),
    }
}
