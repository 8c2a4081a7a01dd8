//! Client of HTTP caches: the protocol of Bazel's `--remote_cache=http://…`, which bazel-remote, nginx as a `WebDAV`
//! server, and others serve. A blob is at `{url}/cas/{hash}`, the result of an Action at `{url}/{instance}/ac/{hash}`;
//! GET, HEAD and PUT. Before a hash by BLAKE3 comes `blake3/`, as in resource names.

mod options;

use std::fmt::Display;
use std::sync::Arc;

use bitzel_proto::{Digest, DigestFunction, InstanceName};
use bitzel_rpc::secret::without_secrets;
use futures::TryStreamExt;
use percent_encoding::percent_decode_str;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use reqwest::{Body, Certificate, Client, Method, RequestBuilder, Response, StatusCode, Url};

use crate::blob_store::BlobStream;
use crate::error::{BackEndFailure, Error};

pub use self::options::{HttpCacheOptions, HttpCredentials};

/// Unused connections to one server that are kept open.
const MAX_IDLE_CONNECTIONS: usize = 64;
/// Bytes of the body of a refusal that are copied into the error message.
const MAX_REASON_BYTES: usize = 200;

/// Client of one server, shared by an [`crate::HttpBlobStore`] and an [`crate::HttpActionCache`].
#[derive(Debug)]
pub struct HttpCache {
    client: Client,
    base: Url,
    credentials: HttpCredentials,
}

impl HttpCache {
    /// Checks the options. The first request sets up the connection.
    pub fn new(options: HttpCacheOptions) -> Result<Arc<Self>, Error> {
        let invalid = |reason: String| {
            let url = without_secrets(&options.url);
            Error::InvalidArgument(format!("HTTP cache {url:?} {reason}"))
        };
        let mut base = Url::parse(&options.url).map_err(|error| invalid(format!("is not a URL: {error}")))?;
        if !matches!(base.scheme(), "http" | "https") {
            return Err(invalid(
                "has an unknown scheme; write http://host:port/path or https://…".into(),
            ));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(invalid(
                "contains credentials; configure them separately, so that they stay out of logs".into(),
            ));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(invalid("has a query or a fragment; remove it".into()));
        }
        let path = base.path().trim_end_matches('/').to_owned();
        base.set_path(&path);
        bitzel_rpc::crypto_provider::install();
        let mut client = Client::builder()
            .connect_timeout(options.connect_timeout)
            .read_timeout(options.read_timeout)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .tcp_nodelay(true)
            // The target of a redirect would receive the credentials.
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

    /// URL of a blob.
    pub(crate) fn blob(&self, digest: Digest) -> Url {
        self.at(&[&["cas"], function_of(digest), &[&digest.hash_hex()]].concat())
    }

    /// URL of a result. An error if a URL cannot hold the instance name: it would name the results of another one.
    pub(crate) fn result(&self, instance: &InstanceName, action: Digest) -> Result<Url, Error> {
        let instance = instance.to_string();
        let instance: Vec<&str> = instance
            .split('/')
            .filter(|segment| !segment.is_empty())
            .collect();
        let hash = action.hash_hex();
        let segments = [&instance[..], &["ac"], function_of(action), &[&hash]].concat();
        let url = self.at(&segments);
        if self.is_at(&url, &segments) {
            return Ok(url);
        }
        Err(Error::InvalidArgument(format!(
            "the URL of an HTTP cache cannot hold the instance name {:?}; use another name",
            instance.join("/")
        )))
    }

    /// True if exactly `segments` follow the base in `url`. Parsers of URLs drop control characters and dot segments.
    fn is_at(&self, url: &Url, segments: &[&str]) -> bool {
        let path = |url: &Url| -> Vec<Vec<u8>> {
            let path = url.path_segments().into_iter().flatten();
            path.filter(|segment| !segment.is_empty())
                .map(|segment| percent_decode_str(segment).collect())
                .collect()
        };
        let mut expected = path(&self.base);
        expected.extend(segments.iter().map(|segment| segment.as_bytes().to_vec()));
        path(url) == expected
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

    /// Requests the existence of a resource, and its size if the server announces one. `None` if it is absent.
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

    /// Reads a part of a resource (offset and length), or all of it. `None` if it is absent.
    pub(crate) async fn get(&self, url: Url, part: Option<(u64, u64)>) -> Result<Option<GetResponse>, Error> {
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
            let context = format_args!("GET {url} yields a part without its position");
            Error::back_end(context, BackEndFailure::Faulty)("no Content-Range")
        })?;
        Ok(Some(GetResponse {
            start,
            length: response.content_length(),
            body: body(url, response),
        }))
    }

    /// Stores a resource. `length` is the size of `body`.
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
            connection_error(format_args!("the request to {url} {what}"), error)
        })
    }
}

/// Part of the path before a hash. A hash alone is one of SHA-256.
fn function_of(digest: Digest) -> &'static [&'static str] {
    match digest.function() {
        DigestFunction::Sha256 => &[],
        DigestFunction::Blake3 => &["blake3"],
    }
}

/// Response to a GET.
pub(crate) struct GetResponse {
    /// Offset of the first byte, which a server may choose before the requested one.
    pub(crate) start: u64,
    /// Number of bytes that the server announces.
    pub(crate) length: Option<u64>,
    pub(crate) body: BlobStream,
}

/// Offset of the first byte in a `Content-Range`: 7 in `bytes 7-9/10`.
fn first_byte(range: &str) -> Option<u64> {
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

fn body(url: Url, response: Response) -> BlobStream {
    let chunks = response.bytes_stream();
    Box::pin(chunks.map_err(move |error| {
        let what = if error.is_timeout() { "stopped" } else { "broke" };
        connection_error(format_args!("the response of {url} {what} in the middle"), error)
    }))
}

/// Error of a connection. Another attempt may succeed.
fn connection_error(context: impl Display, error: reqwest::Error) -> Error {
    Error::back_end(context, BackEndFailure::Unavailable)(error.without_url())
}

/// Error of a response with a status that the call does not expect.
async fn refused(url: &Url, mut response: Response) -> Error {
    let status = response.status();
    let failure = match status.as_u16() {
        401 | 403 | 407 => BackEndFailure::Denied,
        413 | 507 => BackEndFailure::Full,
        408 | 425 | 429 | 500 | 502..=504 | 509 => BackEndFailure::Unavailable,
        _ => BackEndFailure::Faulty,
    };
    let mut reason = Vec::new();
    while reason.len() < MAX_REASON_BYTES {
        let Ok(Some(chunk)) = response.chunk().await else {
            break;
        };
        reason.extend_from_slice(&chunk);
    }
    reason.truncate(MAX_REASON_BYTES);
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
    Error::back_end(format_args!("{url} answers {status}"), failure)(reason)
}

#[cfg(test)]
pub(crate) mod tests;
