//! Identity of a root file system: a name that two roots share if tasks give the same results in them.
//!
//! A native program is linked against the libc of the root that it was built in, by the compiler of that root. So a
//! result must not be used in another root, and keys of results hold this identity (decision 0036). It is a digest of
//! what makes a root: the release of its distribution, its installed packages, and the tools that commands find in it.
//! Host names, install dates and files of users are no part of it.

use std::fmt;
use std::path::Path;

use bitzel_proto::DigestFunction;
use bitzel_proto::platform_property::{IMAGE_ROOT_IDENTITY, ROOT_IDENTITY};
use bitzel_proto::reapi::platform::Property;
use serde::Deserialize;

use crate::error::Error;

mod alternatives;
mod os_release;
mod packages;
mod tools;

use alternatives::Alternative;
use os_release::OsRelease;
use packages::Package;
use tools::Tool;

/// First line of the text whose digest is the identity. Another format gives other identities.
const FORMAT: &str = "bitzel root identity 1";
/// Number of hexadecimal digits of the digest in an identity: 128 bits.
const DIGEST_HEX_LENGTH: usize = 32;
/// Longest identity that an operator may give.
const MAX_LENGTH: usize = 200;

/// Identity of a root file system, as `debian-12-1f0c…`: the distribution for people, the digest for everybody else.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RootIdentity(String);

/// The text is not an identity.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not a root identity: it has to have 1 to {MAX_LENGTH} letters, digits and characters of \"-._:/@+\", and \
     not to be {IMAGE_ROOT_IDENTITY:?}, the name for image roots"
)]
pub struct InvalidRootIdentity(String);

impl RootIdentity {
    /// An identity that a person gives: that of another machine, or a name for which an operator vouches.
    pub fn new(text: &str) -> Result<Self, InvalidRootIdentity> {
        let is_allowed = |character: char| character.is_ascii_alphanumeric() || "-._:/@+".contains(character);
        let is_reserved = text == IMAGE_ROOT_IDENTITY;
        if is_reserved || text.is_empty() || text.len() > MAX_LENGTH || !text.chars().all(is_allowed) {
            return Err(InvalidRootIdentity(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// Identity that every worker offers for Actions that bring their root file system, an image root.
    pub fn of_image_roots() -> Self {
        Self(IMAGE_ROOT_IDENTITY.to_owned())
    }

    /// The identity as a text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The platform property by which a worker offers the identity.
    pub fn to_property(&self) -> Property {
        Property {
            name: ROOT_IDENTITY.to_owned(),
            value: self.0.clone(),
        }
    }
}

impl TryFrom<String> for RootIdentity {
    type Error = InvalidRootIdentity;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(&text)
    }
}

impl fmt::Display for RootIdentity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// Parts that make a root file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootParts {
    os_release: OsRelease,
    packages: Vec<Package>,
    alternatives: Vec<Alternative>,
    tools: Vec<Tool>,
}

impl RootParts {
    /// Reads the parts of this machine's root, which is the one that sandboxes show. Blocks, and runs programs: the
    /// package manager where its database has no text form, and tools that belong to no package.
    pub fn of_this_machine() -> Result<Self, Error> {
        let root = Path::new("/");
        let packages = packages::installed(root)?;
        let tools = tools::find(!packages.is_empty())?;
        if packages.is_empty() && !tools.iter().any(Tool::has_version) {
            return Err(Error::UnknownRoot(
                "it has no package database of dpkg, rpm, apk or pacman, and no compiler or libc that names its version"
                    .to_owned(),
            ));
        }
        Ok(Self {
            os_release: OsRelease::read(root)?,
            packages,
            alternatives: alternatives::chosen(root)?,
            tools,
        })
    }

    /// The identity of a root with these parts.
    pub fn identity(&self) -> RootIdentity {
        let digest = DigestFunction::Sha256.digest(self.to_string().as_bytes());
        let mut hex = digest.hash_hex();
        hex.truncate(DIGEST_HEX_LENGTH);
        RootIdentity(format!("{}-{hex}", self.os_release.name()))
    }
}

/// The text whose digest is the identity: one line for each part, sorted. Two such texts can be compared by `diff`.
impl fmt::Display for RootParts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{FORMAT}")?;
        let mut lines: Vec<String> = self.os_release.lines();
        lines.extend(self.packages.iter().map(Package::to_string));
        lines.extend(self.alternatives.iter().map(Alternative::to_string));
        lines.extend(self.tools.iter().map(Tool::to_string));
        lines.sort_unstable();
        lines.dedup();
        lines.iter().try_for_each(|line| writeln!(formatter, "{line}"))
    }
}

#[cfg(test)]
mod tests;
