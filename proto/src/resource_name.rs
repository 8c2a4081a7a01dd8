//! Resource names of `ByteStream` reads and writes.

use std::fmt;

use crate::digest::{Digest, InvalidDigest};
use crate::digest_function::DigestFunction;
use crate::instance_name::{InstanceName, InvalidInstanceName};

/// Compression of the bytes of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compressor {
    /// No compression.
    Identity,
    /// Zstandard.
    Zstd,
}

/// A parsed resource name: `{instance}/[uploads/{uuid}/](blobs|compressed-blobs/zstd)/[blake3/]{hash}/{size}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceName {
    /// Instance of the server.
    pub instance: InstanceName,
    /// The client's name for the upload; `None` for a read.
    pub upload: Option<String>,
    /// Compression of the transferred bytes.
    pub compressor: Compressor,
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
}

/// Error of a resource name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidResourceName {
    /// The name has another form.
    #[error("resource name {0:?} is not of the form {{instance}}/[uploads/{{uuid}}/]blobs/{{hash}}/{{size}}")]
    Form(String),
    /// bitzel does not support the compression.
    #[error("compressor {0:?} is not supported; use zstd or identity")]
    Compressor(String),
    /// The digest is malformed.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// The instance name is malformed.
    #[error(transparent)]
    Instance(#[from] InvalidInstanceName),
}

impl ResourceName {
    /// Creates a name to read `digest` without compression.
    pub fn read(instance: InstanceName, digest: Digest) -> Self {
        Self {
            instance,
            upload: None,
            compressor: Compressor::Identity,
            digest,
        }
    }

    /// Creates a name to write `digest` without compression.
    pub fn write(instance: InstanceName, upload: impl Into<String>, digest: Digest) -> Self {
        Self {
            instance,
            upload: Some(upload.into()),
            compressor: Compressor::Identity,
            digest,
        }
    }

    /// Parses the name of a read request.
    pub fn parse_read(name: &str) -> Result<Self, InvalidResourceName> {
        Self::parse(name, false)
    }

    /// Parses the name of a write request. Segments after the size belong to the client and are ignored.
    pub fn parse_write(name: &str) -> Result<Self, InvalidResourceName> {
        Self::parse(name, true)
    }

    fn parse(name: &str, write: bool) -> Result<Self, InvalidResourceName> {
        let form = || InvalidResourceName::Form(name.chars().take(300).collect());
        let segments: Vec<&str> = name.split('/').collect();
        // Instance names cannot contain the keywords, so the first one ends the instance name.
        let keyword = if write {
            &["uploads"][..]
        } else {
            &["blobs", "compressed-blobs"][..]
        };
        let at = segments
            .iter()
            .position(|segment| keyword.contains(segment))
            .ok_or_else(form)?;
        let (instance, mut rest) = segments.split_at(at);
        if instance == [""] {
            return Err(form());
        }
        let mut upload = None;
        if write {
            let [_, uuid, tail @ ..] = rest else {
                return Err(form());
            };
            if uuid.is_empty() {
                return Err(form());
            }
            upload = Some((*uuid).to_owned());
            rest = tail;
        }
        let (compressor, rest) = match rest {
            ["blobs", tail @ ..] | ["compressed-blobs", "identity", tail @ ..] => {
                (Compressor::Identity, tail)
            }
            ["compressed-blobs", "zstd", tail @ ..] => (Compressor::Zstd, tail),
            ["compressed-blobs", other, ..] => {
                return Err(InvalidResourceName::Compressor((*other).to_owned()));
            }
            _ => return Err(form()),
        };
        let (function, rest) = match rest {
            ["blake3", tail @ ..] => (DigestFunction::Blake3, tail),
            tail => (DigestFunction::Sha256, tail),
        };
        let (hash, size) = match rest {
            [hash, size] => (hash, size),
            [hash, size, ..] if write => (hash, size),
            _ => return Err(form()),
        };
        // `parse` alone would also accept "+5".
        if !size.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(form());
        }
        let size = size.parse().map_err(|_| form())?;
        Ok(Self {
            instance: InstanceName::new(instance.join("/"))?,
            upload,
            compressor,
            digest: Digest::from_parts(function, hash, size)?,
        })
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.instance.as_str().is_empty() {
            write!(formatter, "{}/", self.instance)?;
        }
        if let Some(upload) = &self.upload {
            write!(formatter, "uploads/{upload}/")?;
        }
        formatter.write_str(match self.compressor {
            Compressor::Identity => "blobs/",
            Compressor::Zstd => "compressed-blobs/zstd/",
        })?;
        if let Some(function) = self.digest.function().resource_segment() {
            write!(formatter, "{function}/")?;
        }
        write!(formatter, "{}", self.digest)
    }
}

#[cfg(test)]
mod tests;
