//! What the headers of a request say about bytes: compression and parts.

use http::{HeaderMap, header};
use tonic::Status;

use bitzel_cas::blob_store::BlobRange;

/// Header of bazel-remote with the size of what is compressed in the body.
const UNCOMPRESSED_SIZE: &str = "x-digest-sizebytes";

/// How the body of a request is compressed, and how many bytes it holds once it is not, if that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Upload {
    pub(super) is_zstd: bool,
    pub(super) size: Option<u64>,
}

impl Upload {
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

/// Whether the client takes zstd, and does not say that it prefers none of it (RFC 9110, 12.5.3).
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

/// Which part of something a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// Some bytes, at least one.
    Bytes { offset: u64, length: u64 },
    /// Bytes that are not there.
    Beyond,
}

impl Part {
    /// Reads `Range` (RFC 9110, 14.2). More than one range, or what is none, gets the whole, as the RFC allows.
    pub(super) fn of(headers: &HeaderMap, size: u64) -> Self {
        let range = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        let range = range.and_then(|range| range.trim().strip_prefix("bytes="));
        let Some((first, last)) = range.and_then(|range| range.split_once('-')) else {
            return Self::Whole;
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(first) || !is_number(last) {
            return Self::Whole;
        }
        // Numbers that are too large stand for the end.
        let number = |text: &str| text.parse().unwrap_or(u64::MAX);
        let (start, end) = match (first, last) {
            ("", "") => return Self::Whole,
            ("", suffix) => (size.saturating_sub(number(suffix)), size),
            (first, "") => (number(first), size),
            (first, last) if number(last) < number(first) => return Self::Whole,
            (first, last) => (number(first), number(last).saturating_add(1).min(size)),
        };
        if start >= end {
            return Self::Beyond;
        }
        Self::Bytes {
            offset: start,
            length: end - start,
        }
    }

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
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())])
    }

    #[test]
    fn zstd_is_sent_to_who_takes_it() {
        for (value, takes) in [
            ("zstd", true),
            ("gzip, br, ZSTD", true),
            ("gzip;q=1.0, zstd;q=0.5", true),
            ("zstd; q=0.000, gzip", false),
            ("gzip", false),
            ("zstdx", false),
            ("*", false),
        ] {
            assert_eq!(accepts_zstd(&headers("accept-encoding", value)), takes, "{value}");
        }
        assert!(!accepts_zstd(&HeaderMap::new()));
    }

    #[test]
    fn parts_end_where_the_blob_does() {
        let bytes = |offset, length| Part::Bytes { offset, length };
        for (value, part) in [
            ("bytes=0-9", bytes(0, 10)),
            ("bytes=3-3", bytes(3, 1)),
            ("bytes=3-", bytes(3, 7)),
            ("bytes=3-99", bytes(3, 7)),
            ("bytes=-4", bytes(6, 4)),
            ("bytes=-40", bytes(0, 10)),
            ("bytes=2-99999999999999999999999", bytes(2, 8)),
            ("bytes=10-", Part::Beyond),
            ("bytes=99999999999999999999999-", Part::Beyond),
            ("bytes=-0", Part::Beyond),
            ("bytes=5-4", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=+1-2", Part::Whole),
            ("bytes=-", Part::Whole),
            ("lines=1-2", Part::Whole),
        ] {
            assert_eq!(Part::of(&headers("range", value), 10), part, "{value}");
        }
        assert_eq!(Part::of(&headers("range", "bytes=0-"), 0), Part::Beyond);
    }

    #[test]
    fn the_size_is_that_of_the_blob_and_not_of_the_transfer() {
        let mut request = headers("content-length", "7");
        let upload = |headers: &HeaderMap| Upload::of(headers).unwrap();
        assert_eq!(
            upload(&request),
            Upload {
                is_zstd: false,
                size: Some(7)
            }
        );
        request.insert("content-encoding", "zstd".parse().unwrap());
        assert_eq!(
            upload(&request),
            Upload {
                is_zstd: true,
                size: None
            }
        );
        request.insert("x-digest-sizebytes", "700".parse().unwrap());
        assert_eq!(
            upload(&request),
            Upload {
                is_zstd: true,
                size: Some(700)
            }
        );
        for (name, value) in [
            ("x-digest-sizebytes", "-1"),
            ("x-digest-sizebytes", "9223372036854775808"),
            ("x-digest-sizebytes", "many"),
            ("content-encoding", "gzip"),
            ("content-encoding", "zstd, zstd"),
        ] {
            assert!(Upload::of(&headers(name, value)).is_err(), "{name}: {value}");
        }
    }
}
