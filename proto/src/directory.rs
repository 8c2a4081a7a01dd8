//! Directory messages: canonical encoding, and validation before they are laid out on a disk.

mod encoder;

use std::collections::HashSet;

use crate::{Digest, DigestFunction, InvalidDigest, reapi};

pub use encoder::{DirectoryEncoder, EncodedDirectory};

/// Error of a Directory message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDirectory {
    /// A name is not one path segment.
    #[error("name {name:?} {reason}")]
    Name {
        /// The name.
        name: String,
        /// The defect.
        reason: &'static str,
    },
    /// Two nodes have the same name.
    #[error("name {0:?} occurs twice")]
    Duplicate(String),
    /// The nodes are not sorted. The specification requires files, directories and symlinks each sorted by name, so that
    /// equal directories have equal digests.
    #[error("{kind} are not sorted: {second:?} comes after {first:?}")]
    Unsorted {
        /// Kind of the nodes: files, directories or symlinks.
        kind: &'static str,
        /// The name that comes first.
        first: String,
        /// The name that should come before it.
        second: String,
    },
    /// The digest of a node is malformed.
    #[error("the digest of {name:?} is malformed")]
    Digest {
        /// The node.
        name: String,
        /// The defect.
        #[source]
        source: InvalidDigest,
    },
    /// A symlink that cannot be created.
    #[error("the target of symlink {name:?} {reason}")]
    Target {
        /// The symlink.
        name: String,
        /// The defect of its target.
        reason: &'static str,
    },
}

/// Maximum size of a name in Linux file systems, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Maximum size of a symlink's target in Linux, in bytes.
const MAX_TARGET_BYTES: usize = 4095;

/// Checks that a Directory can be laid out without a write anywhere else: every name is one segment and is used once,
/// digests are well formed, and symlink targets are possible. A symlink may point anywhere: the sandbox confines the
/// processes that follow it.
pub fn validate_directory(directory: &reapi::Directory) -> Result<(), InvalidDirectory> {
    let files = directory.files.iter().map(|file| &file.name);
    let directories = directory.directories.iter().map(|child| &child.name);
    let symlinks = directory.symlinks.iter().map(|symlink| &symlink.name);
    check_order("files", files.clone())?;
    check_order("directories", directories.clone())?;
    check_order("symlinks", symlinks.clone())?;
    let mut names = HashSet::new();
    for name in files.chain(directories).chain(symlinks) {
        if let Some(reason) = wrong_name(name) {
            let name = name.clone();
            return Err(InvalidDirectory::Name { name, reason });
        }
        if !names.insert(name) {
            return Err(InvalidDirectory::Duplicate(name.clone()));
        }
    }
    for file in &directory.files {
        check_digest(&file.name, file.digest.as_ref())?;
    }
    for child in &directory.directories {
        check_digest(&child.name, child.digest.as_ref())?;
    }
    for symlink in &directory.symlinks {
        let reason = if symlink.target.is_empty() {
            "is empty"
        } else if symlink.target.contains('\0') {
            "contains NUL"
        } else if symlink.target.len() > MAX_TARGET_BYTES {
            "is longer than 4095 bytes"
        } else {
            continue;
        };
        let name = symlink.name.clone();
        return Err(InvalidDirectory::Target { name, reason });
    }
    Ok(())
}

/// Returns the defect of a name.
fn wrong_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name == "." || name == ".." {
        Some("is not the name of an entry")
    } else if name.contains('/') {
        Some("contains a slash")
    } else if name.contains('\0') {
        Some("contains NUL")
    } else if name.len() > MAX_NAME_BYTES {
        Some("is longer than 255 bytes")
    } else {
        None
    }
}

/// Checks that names are in ascending order. Equal names are reported as duplicates later.
fn check_order<'a>(
    kind: &'static str,
    names: impl Iterator<Item = &'a String> + Clone,
) -> Result<(), InvalidDirectory> {
    match names
        .clone()
        .zip(names.skip(1))
        .find(|(first, second)| first > second)
    {
        None => Ok(()),
        Some((first, second)) => Err(InvalidDirectory::Unsorted {
            kind,
            first: first.clone(),
            second: second.clone(),
        }),
    }
}

/// Checks the digest of a node. Hashes of both functions have the same form, so the check needs no function.
fn check_digest(name: &str, digest: Option<&reapi::Digest>) -> Result<(), InvalidDirectory> {
    match Digest::from_wire_field(DigestFunction::default(), digest) {
        Ok(_) => Ok(()),
        Err(source) => Err(InvalidDirectory::Digest {
            name: name.to_owned(),
            source,
        }),
    }
}
