//! Keys of cached files: two files of input roots with the same key are one file.

use std::fmt;

use bitzel_proto::reapi::FileNode;
use bitzel_proto::{Digest, DigestFunction};
use faster_hex::{hex_decode_array, hex_string};

use crate::error::Error;
use crate::node_properties::{Mtime, hardlink_group, mtime, unix_mode};

/// Mode of files whose node sets none. Read-only: the specification leaves it open, and nothing may write to them.
const DEFAULT_MODE: u32 = 0o444;
/// Mode of executable files whose node sets none.
const DEFAULT_EXECUTABLE_MODE: u32 = 0o555;

/// Permission of a file's owner to read it.
const OWNER_READ: u32 = 0o400;

/// The key of a cached file. Its text form is the path of the file below `files/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// The content.
    pub digest: Digest,
    /// Permission, setuid, setgid and sticky bits.
    pub mode: u32,
    /// Distinguishes files that must not share an inode.
    pub identity: Option<Identity>,
}

/// The identity of a file whose node sets a modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// The modification time.
    pub mtime: Mtime,
    /// Start of the hash of the file's path, or of its hardlink group.
    pub name: [u8; 16],
}

impl FileKey {
    /// The key of `node` at `path`, relative to the input root.
    pub fn of_node(function: DigestFunction, node: &FileNode, path: &str) -> Result<Self, Error> {
        let digest = Digest::from_wire_field(function, node.digest.as_ref())
            .map_err(Error::digest("FileNode.digest"))?;
        let properties = node.node_properties.as_ref();
        let default_mode = if node.is_executable {
            DEFAULT_EXECUTABLE_MODE
        } else {
            DEFAULT_MODE
        };
        Ok(Self {
            digest,
            mode: unix_mode(properties).unwrap_or(default_mode),
            identity: mtime(properties).map(|mtime| Identity::new(mtime, path, hardlink_group(properties))),
        })
    }

    /// True if the owner, this worker, can read a file with this key.
    pub(super) fn is_readable(&self) -> bool {
        self.mode & OWNER_READ != 0
    }

    /// Reads the text form.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (prefix, rest) = text.split_once('/')?;
        let mut fields = rest.split('-');
        let function = DigestFunction::from_name(fields.next()?)?;
        let hash = fields.next()?;
        let size = fields.next()?.parse().ok()?;
        let mode = u32::from_str_radix(fields.next()?, 8).ok()?;
        let identity = match fields.next() {
            None => None,
            Some(mtime) => {
                let (sign, mtime) = mtime.strip_prefix('n').map_or((1, mtime), |mtime| (-1, mtime));
                let (seconds, nanos) = mtime.split_once('.')?;
                let name = hex_decode_array(fields.next()?.as_bytes()).ok()?;
                let seconds = sign * seconds.parse::<i64>().ok()?;
                let nanos = nanos.parse().ok()?;
                Some(Identity {
                    mtime: Mtime { seconds, nanos },
                    name,
                })
            }
        };
        let digest = Digest::from_parts(function, hash, size).ok()?;
        (hash.starts_with(prefix) && fields.next().is_none()).then_some(Self {
            digest,
            mode,
            identity,
        })
    }
}

impl Identity {
    fn new(mtime: Mtime, path: &str, group: Option<&str>) -> Self {
        let mut hasher = DigestFunction::Sha256.hasher();
        hasher.update(if group.is_some() { b"group " } else { b"path " });
        hasher.update(group.unwrap_or(path).as_bytes());
        let mut name = [0; 16];
        name.copy_from_slice(&hasher.finish().hash()[..16]);
        Self { mtime, name }
    }
}

impl fmt::Display for FileKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let function = self.digest.function().name();
        let hash = self.digest.hash_hex();
        let (prefix, size) = (&hash[..2], self.digest.size_bytes());
        write!(formatter, "{prefix}/{function}-{hash}-{size}-{:o}", self.mode)?;
        if let Some(Identity { mtime, name }) = &self.identity {
            let sign = if mtime.seconds < 0 { "n" } else { "" };
            let (seconds, nanos) = (mtime.seconds.unsigned_abs(), mtime.nanos);
            write!(formatter, "-{sign}{seconds}.{nanos}-{}", hex_string(name))?;
        }
        Ok(())
    }
}
