//! As much of `WebDAV` (RFC 4918) as programs need that keep a cache on such a server: sccache asks whether a value is
//! there and whether its directories are, and makes these. Here every directory is there and none is listed.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bitzel_proto::CachePath;
use http::{HeaderValue, Response, StatusCode, header};
use tonic::Status;

use super::body::empty;
use super::{CacheRequest, HttpCacheService};
use bitzel_access::Permission;

impl HttpCacheService {
    pub(super) async fn describe_value(
        &self,
        request: &CacheRequest,
        path: &CachePath,
        name: &str,
    ) -> Result<Response<Body>, Status> {
        let value = self.named(request, name).await?;
        let size = value.digest.size_bytes();
        let properties = format!("<D:resourcetype/><D:getcontentlength>{size}</D:getcontentlength>");
        Ok(described(path, &properties, value.modified))
    }
}

pub(super) fn describe_collection(
    request: &CacheRequest,
    path: &CachePath,
) -> Result<Response<Body>, Status> {
    request.authorize(Permission::ActionCacheRead)?;
    let properties = "<D:resourcetype><D:collection/></D:resourcetype>";
    Ok(described(path, properties, UNIX_EPOCH))
}

pub(super) fn make_collection(request: &CacheRequest) -> Result<Response<Body>, Status> {
    request.authorize(Permission::ActionCacheWrite)?;
    Ok(empty(StatusCode::CREATED))
}

/// A `multistatus` of one resource. The path is written with escapes for all that XML would make something of.
fn described(path: &CachePath, properties: &str, modified: SystemTime) -> Response<Body> {
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
