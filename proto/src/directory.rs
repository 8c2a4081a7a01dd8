//! Validation of Directory messages before they are laid out on a disk.

use std::collections::HashSet;

use crate::{Digest, DigestFunction, InvalidDigest, reapi};

/// Why a Directory is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDirectory {
    /// A name that is not one path segment.
    #[error("name {name:?} {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// One name for two things.
    #[error("name {0:?} occurs twice")]
    Duplicate(String),
    /// The specification wants files, directories and symlinks each sorted by name, so that equal directories have
    /// equal digests.
    #[error("{kind} are not sorted: {second:?} comes after {first:?}")]
    Unsorted {
        /// Files, directories or symlinks.
        kind: &'static str,
        /// The one that comes first.
        first: String,
        /// The one that should come before it.
        second: String,
    },
    /// A child without a proper digest.
    #[error("the digest of {name:?} is malformed")]
    Digest {
        /// The child.
        name: String,
        /// What is wrong.
        #[source]
        source: InvalidDigest,
    },
    /// A symlink that no system can make.
    #[error("the target of symlink {name:?} {reason}")]
    Target {
        /// The symlink.
        name: String,
        /// What is wrong with its target.
        reason: &'static str,
    },
}

/// Longest name that Linux file systems take, in bytes.
const MAX_NAME: usize = 255;
/// Longest symlink target that Linux takes, in bytes.
const MAX_TARGET: usize = 4095;

/// Checks that a Directory can be laid out without writing anywhere else: every name is one segment and names one
/// thing, digests are well formed, symlink targets are possible. Where a symlink points is not judged here: the
/// sandbox confines what follows it.
pub fn validate_directory(directory: &reapi::Directory) -> Result<(), InvalidDirectory> {
    let files = directory.files.iter().map(|file| &file.name);
    let directories = directory.directories.iter().map(|child| &child.name);
    let symlinks = directory.symlinks.iter().map(|symlink| &symlink.name);
    sorted("files", files.clone())?;
    sorted("directories", directories.clone())?;
    sorted("symlinks", symlinks.clone())?;
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
        well_formed(&file.name, file.digest.as_ref())?;
    }
    for child in &directory.directories {
        well_formed(&child.name, child.digest.as_ref())?;
    }
    for symlink in &directory.symlinks {
        let reason = if symlink.target.is_empty() {
            "is empty"
        } else if symlink.target.contains('\0') {
            "contains NUL"
        } else if symlink.target.len() > MAX_TARGET {
            "is longer than 4095 bytes"
        } else {
            continue;
        };
        let name = symlink.name.clone();
        return Err(InvalidDirectory::Target { name, reason });
    }
    Ok(())
}

fn wrong_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("is empty")
    } else if name == "." || name == ".." {
        Some("is not the name of an entry")
    } else if name.contains('/') {
        Some("contains a slash")
    } else if name.contains('\0') {
        Some("contains NUL")
    } else if name.len() > MAX_NAME {
        Some("is longer than 255 bytes")
    } else {
        None
    }
}

/// Names in ascending order; equal ones are reported as duplicates later.
fn sorted<'a>(
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

/// Hashes of both functions look the same, so that the check needs no function.
fn well_formed(name: &str, digest: Option<&reapi::Digest>) -> Result<(), InvalidDirectory> {
    match Digest::from_wire_field(DigestFunction::default(), digest) {
        Ok(_) => Ok(()),
        Err(source) => Err(InvalidDirectory::Digest {
            name: name.to_owned(),
            source,
        }),
    }
}
