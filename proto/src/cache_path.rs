//! Paths of the HTTP cache protocol.

use std::fmt;

use faster_hex::hex_string;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::digest::{Digest, InvalidDigest};
use crate::digest_function::DigestFunction;
use crate::instance_name::{InstanceName, InvalidInstanceName};

/// Segment that ends the instance name. All segments after it are the client's own key.
const VALUE_SEGMENT: &str = "dav";
/// Maximum size of a value's name, in bytes.
const MAX_NAME_BYTES: usize = 512;
/// Characters that [`CachePath`] escapes: all but the unreserved ones of RFC 3986.
const ESCAPED_CHARACTERS: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Object that a path of the HTTP cache protocol names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheEntry {
    /// `cas/[blake3/]{hash}`: a blob.
    Blob(DigestFunction, [u8; 32]),
    /// `ac/[blake3/]{hash}`: the result of an Action, or a client's own value under a key of that form.
    Result(DigestFunction, [u8; 32]),
    /// `dav/{name}`: a value under a name that the client chose, as ccache and sccache do.
    Value(String),
    /// `dav` and everything below it that ends with a slash: a collection, in the terms of `WebDAV`.
    Collection(String),
}

/// A parsed path: `/[{instance}/](cas|ac)/[blake3/]{hash}` or `/[{instance}/]dav/{name}`.
///
/// Unlike in resource names of gRPC, a hash has no size. Instance names may contain slashes, and the segments `cas` and
/// `ac`, of which only the last ones count. They may not contain `dav`, of which the first one ends the instance name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CachePath {
    /// Instance of the server.
    pub instance: InstanceName,
    /// Object on this instance.
    pub entry: CacheEntry,
}

/// Error of a path that names no object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCachePath {
    /// The path has another form.
    #[error(
        "path {0:?} is none of /[instance/]cas/{{hash}}, /[instance/]ac/{{hash}} and /[instance/]dav/{{name}}"
    )]
    Form(String),
    /// A segment that is not valid after its `%` escapes are decoded.
    #[error(
        "segment {0:?} of the path is not UTF-8, or is `.` or `..`, or has a slash or control character in it"
    )]
    Segment(String),
    /// The name is too long.
    #[error("the name of the value has more than {MAX_NAME_BYTES} bytes")]
    Name,
    /// The hash is malformed.
    #[error(transparent)]
    Digest(#[from] InvalidDigest),
    /// The instance name is malformed.
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
        if let Some(at) = segments.iter().position(|segment| *segment == VALUE_SEGMENT) {
            let name = segments[at + 1..].join("/");
            if name.len() > MAX_NAME_BYTES {
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

/// Decodes the `%` escapes of one segment, which must stay one segment.
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
        let mut write =
            |segment: &str| write!(formatter, "/{}", utf8_percent_encode(segment, ESCAPED_CHARACTERS));
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
                write_all(VALUE_SEGMENT)?;
                write_all(name)
            }
            CacheEntry::Collection(name) => {
                write_all(VALUE_SEGMENT)?;
                write_all(name)?;
                formatter.write_str("/")
            }
        }
    }
}

#[cfg(test)]
mod tests;
