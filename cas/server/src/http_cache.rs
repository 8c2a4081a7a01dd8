//! HTTP cache protocol: `/cas/{hash}`, `/ac/{hash}` and `/dav/{name}`, each below an instance name, with GET, HEAD and
//! PUT.
//!
//! It is the protocol of Bazel (`--remote_cache=http://…`), ccache and sccache, with the answers of bazel-remote and of
//! `WebDAV` servers. It shares blobs with the gRPC services, and results if they are messages of that type. Other values
//! are kept as blobs, which a result under a reserved instance name refers to (`values.rs`).

mod blobs;
mod body;
mod connections;
mod encoding;
mod request_drain;
mod results;
mod spool;
mod values;
mod web_dav;
mod web_pages;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use bitzel_access::{Permission, RefusalBody as _, authorize};
use bitzel_cas::action_cache::ActionCache;
use bitzel_cas::blob_store::BlobStore;
use bitzel_cas::instance_blob_stores::InstanceBlobStores;
use bitzel_proto::{CacheEntry, CachePath, InstanceName};
use http::{Extensions, HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::sync::Semaphore;
use tonic::{Code, Status};
use tower::Service;

use self::body::{empty, text};
use self::web_dav::{describe_collection, make_collection};
use self::web_pages::refuse_web_pages;

use crate::upload_shares::UploadShares;

pub use self::connections::{HttpVersions, serve, serve_http};
pub use self::spool::Spool;

/// Results of more than 1 MiB that are decoded at the same time.
const MAX_CONCURRENT_LARGE_RESULTS: usize = 4;
/// Methods that `OPTIONS` and refusals of other methods list.
const ALLOWED_METHODS: HeaderValue =
    HeaderValue::from_static("GET, HEAD, PUT, DELETE, OPTIONS, PROPFIND, MKCOL");

/// Service of the HTTP cache protocol.
#[derive(Clone)]
pub struct HttpCacheService {
    cache: Arc<dyn ActionCache>,
    stores: InstanceBlobStores,
    /// The stores for uploads, which share the work between uploads of one blob.
    uploads: InstanceBlobStores,
    spool: Arc<Spool>,
    shares: Arc<UploadShares>,
    /// Permits to decode large results: in memory, each is several times as large as its bytes.
    large_results: Arc<Semaphore>,
}

impl HttpCacheService {
    /// Serves the blobs of `stores` and the results of `cache`, a [`bitzel_cas::CompletenessCheckingActionCache`] over them.
    /// Uploads whose digest is not known before their end are kept in `spool`.
    pub fn new(cache: Arc<dyn ActionCache>, stores: impl Into<InstanceBlobStores>, spool: Spool) -> Self {
        let stores = stores.into();
        Self {
            cache,
            uploads: stores.coalescing(),
            stores,
            spool: Arc::new(spool),
            shares: UploadShares::unlimited(),
            large_results: Arc::new(Semaphore::new(MAX_CONCURRENT_LARGE_RESULTS)),
        }
    }

    /// Limits the uploads of each identity whose digest is known.
    #[must_use]
    pub fn with_shares(mut self, shares: Arc<UploadShares>) -> Self {
        self.shares = shares;
        self
    }

    fn store(&self, request: &CacheRequest) -> Arc<dyn BlobStore> {
        self.stores.store(&request.instance)
    }

    async fn answer(&self, request: Request<Body>) -> Result<Response<Body>, Status> {
        refuse_web_pages(&request)?;
        let path = CachePath::parse(request.uri().path())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (parts, body) = request.into_parts();
        let request = CacheRequest {
            method: parts.method,
            headers: parts.headers,
            extensions: parts.extensions,
            instance: path.instance.clone(),
        };
        match (&path.entry, request.method.as_str()) {
            (_, "OPTIONS") => Ok(allowed(StatusCode::OK)),
            (CacheEntry::Blob(function, hash), "GET" | "HEAD") => {
                self.get_blob(&request, *function, *hash).await
            }
            (CacheEntry::Blob(function, hash), "PUT") => {
                self.put_blob(&request, body, *function, *hash).await
            }
            (CacheEntry::Result(function, hash), "GET" | "HEAD") => {
                self.get_result(&request, *function, *hash).await
            }
            (CacheEntry::Result(function, hash), "PUT") => {
                self.put_result(&request, body, *function, *hash).await
            }
            (CacheEntry::Value(name), "GET" | "HEAD") => self.get_value(&request, name).await,
            (CacheEntry::Value(name), "PUT") => self.put_value(&request, body, name).await,
            (CacheEntry::Value(name), "DELETE") => self.delete_value(&request, name).await,
            (CacheEntry::Value(name), "PROPFIND") => self.describe_value(&request, &path, name).await,
            (CacheEntry::Collection(_), "PROPFIND") => describe_collection(&request, &path),
            (CacheEntry::Value(_) | CacheEntry::Collection(_), "MKCOL") => make_collection(&request),
            _ => Ok(allowed(StatusCode::METHOD_NOT_ALLOWED)),
        }
    }
}

/// Request without its body.
struct CacheRequest {
    method: Method,
    headers: http::HeaderMap,
    extensions: Extensions,
    instance: InstanceName,
}

impl CacheRequest {
    fn authorize(&self, permission: Permission) -> Result<(), Status> {
        authorize(&self.extensions, permission, &self.instance)
    }

    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

/// Answer that lists the allowed methods.
fn allowed(status: StatusCode) -> Response<Body> {
    let mut response = empty(status);
    response.headers_mut().insert(header::ALLOW, ALLOWED_METHODS);
    response
        .headers_mut()
        .insert("dav", HeaderValue::from_static("1"));
    response
}

/// Answer for a gRPC status. The service refuses with such statuses, so that errors are mapped in one place
/// (`grpc_status.rs`).
fn refused(status: Status) -> Response<Body> {
    let code = match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => return Body::refusal(status),
        Code::InvalidArgument | Code::Aborted | Code::Cancelled => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::FailedPrecondition | Code::AlreadyExists => StatusCode::CONFLICT,
        // Ranges are checked before anything is read, so this is about bodies (`spool.rs`).
        Code::OutOfRange => StatusCode::PAYLOAD_TOO_LARGE,
        Code::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(code, status.message())
}

impl Service<Request<Body>> for HttpCacheService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await.unwrap_or_else(refused)) })
    }
}

#[cfg(test)]
mod tests;
