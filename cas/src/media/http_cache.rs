//! A client of caches that speak plain HTTP: the protocol of Bazel's `--remote_cache=http://…`, which bazel-remote,
//! nginx as a `WebDAV` server, and others serve. A blob is at `{url}/cas/{hash}`, the result of an Action at
//! `{url}/{instance}/ac/{hash}`; GET, HEAD and PUT. Before a hash by BLAKE3 comes `blake3/`, as in resource names.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bitzel_proto::{Digest, DigestFunction, InstanceName};
use futures::TryStreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use reqwest::{Body, Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url};

use crate::blob_store::BlobStream;
use crate::error::{BackEndFailure, Error};

/// Connections to one server that are kept when nothing uses them.
const IDLE_CONNECTIONS: usize = 64;
/// Of an answer that says why not, as much as goes into a message.
const REASON_BYTES: usize = 200;

/// Who the client says it is.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum HttpCredentials {
    /// Nobody.
    #[default]
    None,
    /// A user with a password, as htpasswd-style servers want it.
    Basic {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// The bearer of a token.
    Bearer(String),
}

impl fmt::Debug for HttpCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the secret: this ends in logs.
        match self {
            Self::None => formatter.write_str("None"),
            Self::Basic { user, .. } => write!(formatter, "Basic({user})"),
            Self::Bearer(_) => formatter.write_str("Bearer"),
        }
    }
}

/// Where a cache is and how to talk to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCacheOptions {
    /// `http://` or `https://`, with a path in front of `/cas/` and `/ac/` if the server has one.
    pub url: String,
    /// Sent with every request.
    pub credentials: HttpCredentials,
    /// Certificates in PEM to trust besides those of the system.
    pub ca_certificates: Option<Vec<u8>>,
    /// For setting up a connection.
    pub connect_timeout: Duration,
    /// For the next bytes of an answer, its first ones included.
    pub read_timeout: Duration,
}

impl HttpCacheOptions {
    /// The usual limits, no credentials.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            credentials: HttpCredentials::None,
            ca_certificates: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_mins(1),
        }
    }
}

/// One server; shared by an [`crate::HttpBlobStore`] and an [`crate::HttpActionCache`].
#[derive(Debug)]
pub struct HttpCache {
    client: Client,
    base: Url,
    credentials: HttpCredentials,
}

impl HttpCache {
    /// Checks the options. Connects with the first request.
    pub fn new(options: HttpCacheOptions) -> Result<Arc<Self>, Error> {
        let invalid =
            |reason: String| Error::InvalidArgument(format!("HTTP cache {:?} {reason}", options.url));
        let mut base = Url::parse(&options.url).map_err(|error| invalid(format!("is not a URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(invalid(
                "has an unknown scheme; write http://host:port/path or https://…".into(),
            ));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid(
                "holds credentials; give them apart, so that they stay out of logs".into(),
            ));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(invalid("has a query or a fragment; leave that out".into()));
        }
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        bitzel_rpc::crypto_provider::install();
        let mut client = Client::builder()
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .tcp_nodelay(true)
            // A cache that sends clients elsewhere would get its credentials sent there, too.
            .redirect(reqwest::redirect::Policy::none());
        if let Some(pem) = &options.ca_certificates {
            let certificates = Certificate::from_pem_bundle(pem).map_err(|error| {
                invalid(format!(
                    "has a certificate authority that cannot be read: {error}"
                ))
            })?;
            client = client.tls_certs_merge(certificates);
        }
        let client = client.build().map_err(Error::back_end(
            "cannot set up an HTTP client",
            BackEndFailure::Faulty,
        ))?;
        Ok(Arc::new(Self {
            client,
            base,
            credentials: options.credentials,
        }))
    }

    /// The URL of a blob.
    pub(crate) fn blob(&self, digest: Digest) -> Url {
        self.at(&[&["cas"], function_of(digest), &[&digest.hash_hex()]].concat())
    }

    /// The URL of a result.
    pub(crate) fn result(&self, instance: &InstanceName, action: Digest) -> Url {
        let instance = instance.to_string();
        let instance: Vec<&str> = instance
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        self.at(&[&instance[..], &["ac"], function_of(action), &[&action.hash_hex()]].concat())
    }

    fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url);
        match &self.credentials {
            HttpCredentials::None => request,
            HttpCredentials::Basic { user, password } => request.basic_auth(user, Some(password)),
            HttpCredentials::Bearer(token) => request.bearer_auth(token),
        }
    }

    /// Asks whether something is there, and how many bytes it has if the server says so.
    pub(crate) async fn head(&self, url: Url) -> Result<Option<Option<u64>>, Error> {
        let response = self.send(self.request(Method::HEAD, url.clone()), &url).await?;
        match response.status() {
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_success() => {
                let length = response.headers().get(CONTENT_LENGTH);
                Ok(Some(length.and_then(|length| length.to_str().ok()?.parse().ok())))
            }
            _ => Err(refused(&url, response).await),
        }
    }

    /// Reads `length` bytes from `offset` on, or all if `part` is `None`. `None` if it is not there.
    pub(crate) async fn get(&self, url: Url, part: Option<(u64, u64)>) -> Result<Option<Answer>, Error> {
        let mut request = self.request(Method::GET, url.clone());
        if let Some((offset, length)) = part {
            request = request.header(RANGE, format!("bytes={offset}-{}", offset + length.max(1) - 1));
        }
        let response = self.send(request, &url).await?;
        let start = match response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(CONTENT_RANGE);
                range.and_then(|range| first_byte(range.to_str().ok()?))
            }
            status if status.is_success() => Some(0),
            _ => return Err(refused(&url, response).await),
        };
        let start = start.ok_or_else(|| {
            let context = format!("GET {url} yields a part without saying which");
            Error::back_end(context, BackEndFailure::Faulty)("no Content-Range")
        })?;
        Ok(Some(Answer {
            start,
            length: response.content_length(),
            body: body(url, response),
        }))
    }

    /// Stores something. `length` is what `body` has.
    pub(crate) async fn put(&self, url: Url, length: u64, body: Body) -> Result<(), Error> {
        let request = self.request(Method::PUT, url.clone());
        let request = request.header(CONTENT_LENGTH, length).body(body);
        let response = self.send(request, &url).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(refused(&url, response).await)
    }

    async fn send(&self, request: RequestBuilder, url: &Url) -> Result<Response, Error> {
        request.send().await.map_err(|error| {
            let what = if error.is_timeout() { "timed out" } else { "failed" };
            broken(format!("the request to {url} {what}"), error)
        })
    }
}

/// Servers take a hash alone for one of SHA-256.
fn function_of(digest: Digest) -> &'static [&'static str] {
    match digest.function() {
        DigestFunction::Sha256 => &[],
        DigestFunction::Blake3 => &["blake3"],
    }
}

/// What a GET yields.
pub(crate) struct Answer {
    /// The offset of its first byte, which a server is free to put before the one asked for.
    pub(crate) start: u64,
    /// How many bytes it announces.
    pub(crate) length: Option<u64>,
    pub(crate) body: BlobStream,
}

/// `bytes 7-9/10` begins with byte 7.
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn body(url: Url, response: Response) -> BlobStream {
    let chunks = response.bytes_stream();
    Box::pin(chunks.map_err(move |error| {
        let what = if error.is_timeout() { "stopped" } else { "broke" };
        broken(format!("the answer of {url} {what} in the middle"), error)
    }))
}

/// Whatever goes wrong between client and server may go right the next time.
fn broken(context: String, error: reqwest::Error) -> Error {
    Error::back_end(context, BackEndFailure::Unavailable)(error.without_url())
}

/// The error of an answer that is none of those that a call expects.
async fn refused(url: &Url, mut response: Response) -> Error {
    let status = response.status();
    let failure = match status.as_u16() {
        401 | 403 | 407 => BackEndFailure::Denied,
        413 | 507 => BackEndFailure::Full,
        408 | 425 | 429 | 500 | 502..=504 | 509 => BackEndFailure::Unavailable,
        _ => BackEndFailure::Faulty,
    };
    let mut reason = Vec::new();
    while reason.len() < REASON_BYTES {
        let Ok(Some(chunk)) = response.chunk().await else {
            break;
        };
        reason.extend_from_slice(&chunk);
    }
    reason.truncate(REASON_BYTES);
    let reason = String::from_utf8_lossy(&reason);
    let reason: String = reason
        .chars()
        .filter(|character| !character.is_control())
        .collect();
    let reason = if reason.is_empty() {
        "no reason given"
    } else {
        reason.trim()
    };
    Error::back_end(format!("{url} answers {status}"), failure)(reason)
}

#[cfg(test)]
pub(crate) mod tests;
