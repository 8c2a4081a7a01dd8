//! Headers of a request about compression and parts of a blob.

use bitzel_cas::blob_store::BlobRange;
use http::{HeaderMap, header};
use http_range_header::{ParsedRanges, SyntacticallyCorrectRange, parse_range_header};
use tonic::Status;

/// Header of bazel-remote with the uncompressed size of the body.
const UNCOMPRESSED_SIZE: &str = "x-digest-sizebytes";

/// Compression of a request's body, and its uncompressed size if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UploadEncoding {
    pub(super) is_zstd: bool,
    pub(super) size: Option<u64>,
}

impl UploadEncoding {
    /// Reads `Content-Encoding` and the size.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Status> {
        let encoding = headers.get(header::CONTENT_ENCODING);
        let is_zstd = match encoding.map(|encoding| encoding.as_bytes().to_ascii_lowercase()) {
            None => false,
            Some(encoding) => match encoding.as_slice() {
                b"" | b"identity" => false,
                b"zstd" => true,
                other => {
                    return Err(Status::invalid_argument(format!(
                        "the content encoding {:?} is not supported; use zstd or identity",
                        String::from_utf8_lossy(other)
                    )));
                }
            },
        };
        let size = match number(headers, UNCOMPRESSED_SIZE)? {
            None if is_zstd => None,
            None => number(headers, header::CONTENT_LENGTH.as_str())?,
            size => size,
        };
        Ok(Self { is_zstd, size })
    }
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Status> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    match number.filter(|number| i64::try_from(*number).is_ok()) {
        None => Err(Status::invalid_argument(format!("{name} is not a size in bytes"))),
        number => Ok(number),
    }
}

/// True if the client accepts zstd with a weight above 0 (`Accept-Encoding`, RFC 9110, 12.5.3).
pub(super) fn accepts_zstd(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_zstd = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("zstd"));
        let is_refused = parts.any(|parameter| {
            let weight = parameter
                .strip_prefix("q=")
                .or_else(|| parameter.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.trim().parse() == Ok(0.0_f32))
        });
        is_zstd && !is_refused
    })
}

/// Part of a blob that a client asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestedPart {
    /// The whole blob.
    Whole,
    /// Some bytes, at least one.
    Bytes { offset: u64, length: u64 },
    /// Bytes beyond the end of the blob.
    Beyond,
}

impl RequestedPart {
    /// Reads `Range` (RFC 9110, 14.2). Several ranges, or an invalid one, get the whole blob, as the RFC allows.
    pub(super) fn of(headers: &HeaderMap, size: u64) -> Self {
        let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let ranges = range.and_then(|range| parse_range_header(range).ok());
        let (start, end) = match ranges.map(ParsedRanges::into_ranges).as_deref() {
            Some([SyntacticallyCorrectRange::FromStart(first)]) => (*first, size),
            Some([SyntacticallyCorrectRange::FromLast(suffix)]) => (size.saturating_sub(*suffix), size),
            Some([SyntacticallyCorrectRange::Indexed(first, last)]) => {
                (*first, last.saturating_add(1).min(size))
            }
            _ => return Self::Whole,
        };
        if start >= end {
            return Self::Beyond;
        }
        Self::Bytes {
            offset: start,
            length: end - start,
        }
    }

    /// The part as a range of the store.
    pub(super) fn range(self) -> BlobRange {
        match self {
            Self::Whole | Self::Beyond => BlobRange::default(),
            Self::Bytes { offset, length } => BlobRange {
                offset,
                limit: Some(length),
            },
        }
    }
}

#[cfg(test)]
mod tests;
