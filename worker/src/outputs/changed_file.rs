//! Files that a command created or changed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bitzel_proto::{Digest, DigestFunction};
use tokio_util::sync::CancellationToken;

use super::file_digest::hash_and_pass_on;
use crate::error::Error;
use crate::file_cache::{CopyWriter, FileCache, OutputCopy};
use crate::node_properties::Mtime;

/// Mode and modification time of a changed node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub mode: u32,
    pub mtime: Mtime,
}

impl Attributes {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            mode: metadata.mode() & 0o7777,
            mtime: Mtime {
                seconds: metadata.mtime(),
                nanos: metadata.mtime_nsec().try_into().unwrap_or(0),
            },
        }
    }
}

/// Device and inode number.
pub(super) type Inode = (u64, u64);

/// A file that a command created or changed.
#[derive(Debug)]
pub(super) struct ChangedFile {
    /// Path relative to the input root.
    pub path: String,
    pub on_disk: PathBuf,
    pub attributes: Attributes,
    pub size: u64,
    /// The inode, if the file has several names.
    pub inode: Option<Inode>,
}

impl ChangedFile {
    /// A file with the given status.
    pub(super) fn new(path: String, on_disk: PathBuf, metadata: &fs::Metadata) -> Self {
        Self {
            path,
            on_disk,
            attributes: Attributes::of(metadata),
            size: metadata.len(),
            inode: (metadata.nlink() > 1).then(|| (metadata.dev(), metadata.ino())),
        }
    }

    /// Hashes the file, and copies it if there is a `cache` for the copy.
    pub(super) fn hash(
        &self,
        function: DigestFunction,
        cache: Option<&FileCache>,
        cancellation: &CancellationToken,
    ) -> Result<(Digest, Option<OutputCopy>), Error> {
        let mut copy = cache.and_then(|cache| cache.copy_writer(self.size));
        let write = |bytes: &[u8]| {
            if let Some(copy) = &mut copy {
                copy.write(bytes);
            }
        };
        let digest = hash_and_pass_on(function, &self.on_disk, self.size, cancellation, write)?;
        Ok((digest, copy.and_then(CopyWriter::finish)))
    }
}
