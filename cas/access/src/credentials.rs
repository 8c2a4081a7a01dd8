//! Credentials in the headers of a request.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitzel_rpc::Secret;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Longest header that is read. It is more than any real token.
const MAX_HEADER_BYTES: usize = 16 << 10;

/// The `authorization` header of a request (RFC 7235), which gRPC carries as metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Token (`Bearer`, RFC 6750).
    Bearer(Secret),
    /// Name and password (`Basic`, RFC 7617).
    Basic {
        /// The user's name.
        name: String,
        /// The user's password.
        password: Secret,
    },
}

impl Credentials {
    /// Reads the header. The error names the problem and contains nothing of the header.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, &'static str> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err("there is more than one authorization header");
        }
        if value.len() > MAX_HEADER_BYTES {
            return Err("the authorization header is longer than 16 KiB");
        }
        let text = value
            .to_str()
            .map_err(|_| "the authorization header is not ASCII text")?;
        let (scheme, rest) = text
            .split_once(' ')
            .ok_or("the authorization header has no credentials")?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Ok(Some(Self::Bearer(Secret::new(rest))));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let malformed = "the Basic credentials are not base64 of name:password";
            let bytes = BASE64_STANDARD.decode(rest).map_err(|_| malformed)?;
            let text = String::from_utf8(bytes).map_err(|_| malformed)?;
            let (name, password) = text.split_once(':').ok_or(malformed)?;
            return Ok(Some(Self::Basic {
                name: name.to_owned(),
                password: Secret::new(password),
            }));
        }
        Err("the authorization scheme is neither Bearer nor Basic")
    }
}
