//! Values under keys that clients choose: `/dav/{name}`, and values at `/ac/{hash}` that are not results.
//!
//! A value is a blob, and a result under an instance name that no client can use refers to it. So values are bounded,
//! evicted and verified like all blobs, are found only while they are complete, and are never mistaken for the result of
//! an Action.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use bitzel_access::Permission;
use bitzel_cas::compression::{Decompressor, decompressed};
use bitzel_proto::reapi::{ActionResult, ExecutedActionMetadata, OutputFile};
use bitzel_proto::{Digest, DigestFunction, InstanceName, timestamp};
use http::{HeaderValue, Response, StatusCode, header};
use tonic::Status;

use super::blobs::insert;
use super::body::{empty, stream_of};
use super::encoding::UploadEncoding;
use super::spool::Spooled;
use super::{CacheRequest, HttpCacheService};
use crate::upload_memory::UploadMemory;

/// Kind of a key.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyKind {
    /// Hash at `/ac/`.
    Result,
    /// Name at `/dav/`.
    Named,
}

/// Key of a value in the action cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct ValueKey(Digest);

impl ValueKey {
    /// Makes the key. The hashed texts of two keys differ, because neither instances nor names contain control characters.
    pub(super) fn new(kind: KeyKind, instance: &InstanceName, name: &str) -> Self {
        let kind = match kind {
            KeyKind::Result => "ac",
            KeyKind::Named => "dav",
        };
        let text = format!("{kind}\0{instance}\0{name}");
        Self(DigestFunction::Sha256.digest(text.as_bytes()))
    }
}

/// Digest and date of a value.
#[derive(Debug, Clone, Copy)]
pub(super) struct Value {
    pub(super) digest: Digest,
    pub(super) modified: SystemTime,
}

/// Purpose of the reserved instance name of values.
const VALUES: &str = "http-values";

impl HttpCacheService {
    /// Name of the instance that holds the values of the request's tenant.
    fn values(&self, request: &CacheRequest) -> InstanceName {
        self.stores.reserved(VALUES, &request.instance)
    }

    pub(super) async fn find_value(
        &self,
        request: &CacheRequest,
        key: &ValueKey,
    ) -> Result<Option<Value>, Status> {
        let Some(entry) = self.cache.get(&self.values(request), key.0).await? else {
            return Ok(None);
        };
        let file = entry.output_files.first();
        let digest =
            file.and_then(|file| Digest::from_wire_field(DigestFunction::Sha256, file.digest.as_ref()).ok());
        let written = entry
            .execution_metadata
            .and_then(|metadata| metadata.worker_completed_timestamp);
        let seconds = written.and_then(|written| u64::try_from(written.seconds).ok());
        Ok(digest.map(|digest| Value {
            digest,
            modified: UNIX_EPOCH + Duration::from_secs(seconds.unwrap_or_default()),
        }))
    }

    pub(super) async fn keep_value(
        &self,
        request: &CacheRequest,
        key: &ValueKey,
        value: Spooled,
    ) -> Result<(), Status> {
        let digest = value.digest();
        if !self.store(request).find_missing(&[digest]).await?.is_empty() {
            let uploads = self.uploads.store(&request.instance);
            uploads.write(digest, value.into_stream()).await?;
        }
        let file = OutputFile {
            path: "value".to_owned(),
            digest: Some(digest.to_wire()),
            ..OutputFile::default()
        };
        let entry = ActionResult {
            output_files: vec![file],
            execution_metadata: Some(ExecutedActionMetadata {
                worker_completed_timestamp: Some(timestamp::now()),
                ..ExecutedActionMetadata::default()
            }),
            ..ActionResult::default()
        };
        Ok(self.cache.put(&self.values(request), key.0, entry).await?)
    }

    /// Receives a body whose digest is not known before its end.
    pub(super) async fn receive(
        &self,
        request: &CacheRequest,
        body: Body,
        upload: UploadEncoding,
        function: DigestFunction,
    ) -> Result<Spooled, Status> {
        let body = stream_of(body);
        let body = if upload.is_zstd {
            let limit = self.spool.largest_upload();
            let memory = UploadMemory::new(&request.extensions, limit);
            decompressed(body, Decompressor::bounded(limit, "the body"), memory)
        } else {
            body
        };
        self.spool
            .receive(&request.extensions, function, upload.size, body)
            .await
    }

    pub(super) async fn get_value(
        &self,
        request: &CacheRequest,
        name: &str,
    ) -> Result<Response<Body>, Status> {
        let value = self.find_named(request, name).await?;
        let mut response = self.send(request, value.digest).await?;
        let modified = HeaderValue::try_from(httpdate::fmt_http_date(value.modified));
        insert(&mut response, header::LAST_MODIFIED, modified);
        Ok(response)
    }

    /// Finds a value that the caller may read.
    pub(super) async fn find_named(&self, request: &CacheRequest, name: &str) -> Result<Value, Status> {
        request.authorize(Permission::ActionCacheRead)?;
        let key = ValueKey::new(KeyKind::Named, &request.instance, name);
        let value = self.find_value(request, &key).await?;
        value.ok_or_else(|| Status::not_found(format!("there is no value {name:?}")))
    }

    pub(super) async fn put_value(
        &self,
        request: &CacheRequest,
        body: Body,
        name: &str,
    ) -> Result<Response<Body>, Status> {
        request.authorize(Permission::ActionCacheWrite)?;
        let upload = UploadEncoding::of(&request.headers)?;
        let value = self
            .receive(request, body, upload, DigestFunction::Sha256)
            .await?;
        let key = ValueKey::new(KeyKind::Named, &request.instance, name);
        self.keep_value(request, &key, value).await?;
        Ok(empty(StatusCode::CREATED))
    }

    /// Replaces the entry by an empty one: action caches cannot delete entries.
    pub(super) async fn delete_value(
        &self,
        request: &CacheRequest,
        name: &str,
    ) -> Result<Response<Body>, Status> {
        request.authorize(Permission::ActionCacheWrite)?;
        let key = ValueKey::new(KeyKind::Named, &request.instance, name);
        if self.find_value(request, &key).await?.is_some() {
            self.cache
                .put(&self.values(request), key.0, ActionResult::default())
                .await?;
        }
        Ok(empty(StatusCode::NO_CONTENT))
    }
}
