//! Paths of the HTTP cache protocol.

use std::fmt;

use faster_hex::hex_string;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::digest::{Digest, InvalidDigest};
use crate::digest_function::DigestFunction;
use crate::instance_name::{InstanceName, InvalidInstanceName};

/// Ends the instance name; everything after it is the client's own key.
const NAMED: &str = "dav";
/// Longest key of a value, in bytes.
const MAX_NAME: usize = 512;
/// What [`CachePath`] writes as it is: RFC 3986 calls them unreserved.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What a path of the HTTP cache protocol names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEntry {
    /// `cas/[blake3/]{hash}`: a blob.
    Blob(DigestFunction, [u8; 32]),
    /// `ac/[blake3/]{hash}`: the result of an Action, or what a client keeps under a key that looks like one.
    Result(DigestFunction, [u8; 32]),
    /// `dav/{name}`: a value under a name of the client's own choice, as ccache and sccache have them.
    Value(String),
    /// `dav` and everything below it that ends with a slash: a collection, in the terms of `WebDAV`.
    Collection(String),
}

/// A parsed path: `/[{instance}/](cas|ac)/[blake3/]{hash}` or `/[{instance}/]dav/{name}`.
///
/// Unlike the resource names of gRPC, a hash comes without its size. Instance names may contain slashes, and `cas` and
/// `ac` as segments, for only the last ones count; not `dav`, of which the first ends the instance name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePath {
    /// Instance of the server.
    pub instance: InstanceName,
    /// What is meant there.
    pub entry: CacheEntry,
}

/// A path that names nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCachePath {
    /// Not of the form.
    #[error(
        "path {0:?} is none of /[instance/]cas/{{hash}}, /[instance/]ac/{{hash}} and /[instance/]dav/{{name}}"
    )]
    Form(String),
    /// A segment that no name has, once its `%` escapes are undone.
    #[error(
        "segment {0:?} of the path is not UTF-8, or is `.` or `..`, or has a slash or control character in it"
    )]
    Segment(String),
    /// A name that is too long.
    #[error("the name of the value has more than {MAX_NAME} bytes")]
    Name,
    /// Malformed hash.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// Malformed instance name.
    #[error(transparent)]
    Instance(#[from] InvalidInstanceName),
}

impl CachePath {
    /// Parses the path of a request, without its query. Double slashes count as one.
    pub fn parse(path: &str) -> Result<Self, InvalidCachePath> {
        let form = || InvalidCachePath::Form(shortened(path));
        let rest = path.strip_prefix('/').ok_or_else(form)?;
        let segments = rest.split('/').filter(|segment| !segment.is_empty());
        let segments: Vec<String> = segments.map(decoded).collect::<Result<_, _>>()?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        if let Some(at) = segments.iter().position(|segment| *segment == NAMED) {
            let name = segments[at + 1..].join("/");
            if name.len() > MAX_NAME {
                return Err(InvalidCachePath::Name);
            }
            let is_collection = name.is_empty() || path.ends_with('/');
            return Ok(Self {
                instance: InstanceName::new(segments[..at].join("/"))?,
                entry: if is_collection {
                    CacheEntry::Collection(name)
                } else {
                    CacheEntry::Value(name)
                },
            });
        }
        let (instance, kind, function, hash) = match segments.as_slice() {
            [instance @ .., kind @ ("cas" | "ac"), "blake3", hash] => {
                (instance, *kind, DigestFunction::Blake3, *hash)
            }
            [instance @ .., kind @ ("cas" | "ac"), hash] => (instance, *kind, DigestFunction::Sha256, *hash),
            _ => return Err(form()),
        };
        if path.ends_with('/') {
            return Err(form());
        }
        let hash = *Digest::from_parts(function, hash, 0)?.hash();
        Ok(Self {
            instance: InstanceName::new(instance.join("/"))?,
            entry: match kind {
                "cas" => CacheEntry::Blob(function, hash),
                _ => CacheEntry::Result(function, hash),
            },
        })
    }
}

/// Undoes the `%` escapes of one segment, which must not make more than one of it.
fn decoded(segment: &str) -> Result<String, InvalidCachePath> {
    let invalid = || InvalidCachePath::Segment(shortened(segment));
    let decoded = percent_decode_str(segment).decode_utf8().map_err(|_| invalid())?;
    let is_harmless = |character: char| character != '/' && !character.is_control();
    if decoded == "." || decoded == ".." || !decoded.chars().all(is_harmless) {
        return Err(invalid());
    }
    Ok(decoded.into_owned())
}

fn shortened(text: &str) -> String {
    text.chars().take(300).collect()
}

impl fmt::Display for CachePath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut write = |segment: &str| write!(formatter, "/{}", utf8_percent_encode(segment, ESCAPED));
        let mut write_all = |segments: &str| {
            let mut segments = segments.split('/').filter(|segment| !segment.is_empty());
            segments.try_for_each(&mut write)
        };
        write_all(self.instance.as_str())?;
        match &self.entry {
            CacheEntry::Blob(function, hash) | CacheEntry::Result(function, hash) => {
                let is_blob = matches!(self.entry, CacheEntry::Blob(..));
                write_all(if is_blob { "cas" } else { "ac" })?;
                write_all(function.resource_segment().unwrap_or_default())?;
                write_all(&hex_string(hash))
            }
            CacheEntry::Value(name) => {
                write_all(NAMED)?;
                write_all(name)
            }
            CacheEntry::Collection(name) => {
                write_all(NAMED)?;
                write_all(name)?;
                formatter.write_str("/")
            }
        }
    }
}

#[cfg(test)]
mod tests;
