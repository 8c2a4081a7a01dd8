//! The part of `WebDAV` (RFC 4918) that a cache client needs: sccache asks for a value and its directories, and makes
//! the directories. Every directory exists here and none is listed. `docs/decisions/0034` says why no crate does this.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bitzel_access::Permission;
use bitzel_proto::CachePath;
use http::{HeaderValue, Response, StatusCode, header};
use tonic::Status;

use super::body::empty;
use super::{CacheRequest, HttpCacheService};

impl HttpCacheService {
    pub(super) async fn describe_value(
        &self,
        request: &CacheRequest,
        path: &CachePath,
        name: &str,
    ) -> Result<Response<Body>, Status> {
        let value = self.find_named(request, name).await?;
        let size = value.digest.size_bytes();
        let properties = format!("<D:resourcetype/><D:getcontentlength>{size}</D:getcontentlength>");
        Ok(multistatus(path, &properties, value.modified))
    }
}

pub(super) fn describe_collection(
    request: &CacheRequest,
    path: &CachePath,
) -> Result<Response<Body>, Status> {
    request.authorize(Permission::ActionCacheRead)?;
    let properties = "<D:resourcetype><D:collection/></D:resourcetype>";
    Ok(multistatus(path, properties, UNIX_EPOCH))
}

pub(super) fn make_collection(request: &CacheRequest) -> Result<Response<Body>, Status> {
    request.authorize(Permission::ActionCacheWrite)?;
    Ok(empty(StatusCode::CREATED))
}

/// Answer with a `multistatus` of one resource. The path is percent-encoded, so it contains no special character of XML.
fn multistatus(path: &CachePath, properties: &str, modified: SystemTime) -> Response<Body> {
    let modified = httpdate::fmt_http_date(modified);
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\"><D:response><D:href>{path}</D:href>\
         <D:propstat><D:prop>{properties}<D:getlastmodified>{modified}</D:getlastmodified></D:prop>\
         <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response></D:multistatus>\n"
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::MULTI_STATUS;
    let xml = HeaderValue::from_static("application/xml; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, xml);
    response
}
