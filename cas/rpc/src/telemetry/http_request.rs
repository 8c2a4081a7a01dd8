//! Method and status of a request of the HTTP cache, in the terms of gRPC.

use bitzel_proto::{CacheEntry, CachePath};
use http::{HeaderMap, Method, StatusCode, header};
use tonic::Code;
use tracing::field::Empty;
use tracing::{Span, info_span};

use super::called_method::CalledMethod;

/// Method that a request calls. Clients choose paths and methods, so unknown ones share one time series.
pub(super) fn called(method: &Method, path: &str) -> CalledMethod {
    let verb = match method.as_str() {
        "GET" => "Get",
        "HEAD" => "Head",
        "PUT" => "Put",
        "DELETE" => "Delete",
        "OPTIONS" => "Options",
        "PROPFIND" => "Describe",
        "MKCOL" => "Make",
        _ => return CalledMethod::unknown(),
    };
    let entry = match CachePath::parse(path).map(|path| path.entry) {
        Ok(CacheEntry::Blob(..)) => "Blob",
        Ok(CacheEntry::Result(..)) => "Result",
        Ok(CacheEntry::Value(_)) => "Value",
        Ok(CacheEntry::Collection(_)) => "Collection",
        Err(_) => return CalledMethod::unknown(),
    };
    CalledMethod {
        service: "HttpCache".to_owned(),
        method: format!("{verb}{entry}"),
    }
}

/// gRPC code with the meaning of an HTTP status.
pub(super) fn code(status: StatusCode) -> Code {
    match status.as_u16() {
        400 | 411 | 413 | 415 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        405 | 501 => Code::Unimplemented,
        408 | 504 => Code::DeadlineExceeded,
        409 => Code::FailedPrecondition,
        416 => Code::OutOfRange,
        429 | 507 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        200..400 => Code::Ok,
        _ => Code::Internal,
    }
}

/// Span of a request. `identity` is recorded by the layer that authenticates the client, `code` when it is known.
pub(super) fn span(called: &CalledMethod, headers: &HeaderMap) -> Span {
    let tool = headers
        .get(header::USER_AGENT)
        .and_then(|tool| tool.to_str().ok());
    info_span!(
        "request",
        otel.name = format!("{}/{}", called.service, called.method),
        otel.kind = "server",
        rpc.service = called.service,
        rpc.method = called.method,
        client.tool = tool,
        identity = Empty,
        code = Empty,
    )
}
