//! What clients call by URI: the Remote Asset API (`build.bazel.remote.asset.v1`), as `BuildStream` uses it.
//!
//! An asset is kept as a result in the action cache, under a digest of kind, URI and qualifiers. So it is bounded,
//! survives a restart, and, with a cache that checks for completeness, is found only while everything is there that it
//! refers to, whose lifetime each look extends. No Action has such a digest: the text is no message of that type.
//!
//! This server fetches nothing from elsewhere: what nobody pushed is `NOT_FOUND`, as the API allows.

use std::sync::Arc;

use bitzel_proto::asset::fetch_server::{Fetch, FetchServer};
use bitzel_proto::asset::push_server::{Push, PushServer};
use bitzel_proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse, PushBlobRequest,
    PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse, Qualifier,
};
use bitzel_proto::google::protobuf::{Any, Timestamp};
use bitzel_proto::google::rpc;
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::reapi::{ActionResult, ExecutedActionMetadata, OutputDirectory, OutputFile};
use bitzel_proto::{Digest, DigestFunction, InstanceName, reapi, timestamp};
use prost::Message;
use tonic::{Request, Response, Status};

use super::{digest, digest_function, instance_name};
use bitzel_access::{Permission, authorize};
use bitzel_cas::action_cache::ActionCache;
use bitzel_cas::blob_store::BlobStore;

/// URIs of one request: each is a look-up.
const MAX_URIS: usize = 256;
/// Where the expiry of an asset is kept.
const TIMESTAMP_TYPE: &str = "type.googleapis.com/google.protobuf.Timestamp";

/// The `Fetch` and `Push` services.
#[derive(Clone)]
pub struct RemoteAssetService {
    cache: Arc<dyn ActionCache>,
    store: Arc<dyn BlobStore>,
    pushes: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Blob,
    Directory,
}

impl RemoteAssetService {
    /// Keeps assets in `cache`, a [`bitzel_cas::CompletenessCheckingActionCache`] over `store`. Without `pushes`, clients
    /// only fetch.
    pub fn new(cache: Arc<dyn ActionCache>, store: Arc<dyn BlobStore>, pushes: bool) -> Self {
        Self { cache, store, pushes }
    }

    /// The `Fetch` service for a tonic router.
    pub fn into_fetch_server(self) -> FetchServer<Self> {
        FetchServer::new(self).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    /// The `Push` service for a tonic router.
    pub fn into_push_server(self) -> PushServer<Self> {
        PushServer::new(self).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    /// The first of the URIs that has an asset which is young enough.
    async fn fetch(&self, wanted: Wanted) -> Result<Found, Status> {
        check_uris(&wanted.uris)?;
        let now = timestamp::now();
        for uri in wanted.uris {
            let key = key(wanted.function, wanted.kind, &uri, &wanted.qualifiers);
            let Some(asset) = self.cache.get(&wanted.instance, key).await? else {
                continue;
            };
            let Some(digest) = main_digest(wanted.kind, &asset) else {
                continue;
            };
            let metadata = asset.execution_metadata.unwrap_or_default();
            let expires_at = expiry(&metadata);
            let has_expired = expires_at.is_some_and(|at| !is_before(now, at));
            let pushed_at = metadata.worker_completed_timestamp.unwrap_or_default();
            let is_too_old = wanted.oldest.is_some_and(|oldest| is_before(pushed_at, oldest));
            if has_expired || is_too_old {
                continue;
            }
            return Ok(Found {
                uri,
                digest,
                expires_at,
            });
        }
        Err(Status::not_found(
            "no asset was pushed under these URIs and qualifiers, or what it refers to is gone; this server fetches \
             nothing itself",
        ))
    }

    async fn push(&self, pushed: Pushed) -> Result<(), Status> {
        if !self.pushes {
            return Err(Status::permission_denied(
                "this server takes no assets from clients",
            ));
        }
        let function = digest_function(pushed.function)?;
        check_uris(&pushed.uris)?;
        let main = digest(function, pushed.digest.as_ref(), "digest of the asset")?;
        for named in pushed.blobs.iter().chain(&pushed.directories) {
            digest(function, Some(named), "referenced digest")?;
        }
        let missing = self.store.find_missing(&[main]).await?;
        if !missing.is_empty() {
            return Err(bitzel_proto::missing_blobs::missing_blobs_status(&missing));
        }
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        match pushed.kind {
            Kind::Blob => files.push(main.to_wire()),
            Kind::Directory => directories.push(main.to_wire()),
        }
        files.extend(pushed.blobs);
        directories.extend(pushed.directories);
        let asset = ActionResult {
            output_files: files.into_iter().map(file).collect(),
            output_directories: directories.into_iter().map(directory).collect(),
            execution_metadata: Some(ExecutedActionMetadata {
                worker_completed_timestamp: Some(timestamp::now()),
                auxiliary_metadata: pushed.expire_at.iter().map(expiry_to_wire).collect(),
                ..ExecutedActionMetadata::default()
            }),
            ..ActionResult::default()
        };
        let qualifiers = sorted(pushed.qualifiers);
        for uri in &pushed.uris {
            let key = key(function, pushed.kind, uri, &qualifiers);
            self.cache.put(&pushed.instance, key, asset.clone()).await?;
        }
        Ok(())
    }
}

struct Wanted {
    kind: Kind,
    instance: InstanceName,
    function: DigestFunction,
    uris: Vec<String>,
    qualifiers: Vec<Qualifier>,
    oldest: Option<Timestamp>,
}

struct Found {
    uri: String,
    digest: reapi::Digest,
    expires_at: Option<Timestamp>,
}

struct Pushed {
    kind: Kind,
    instance: InstanceName,
    function: i32,
    uris: Vec<String>,
    qualifiers: Vec<Qualifier>,
    expire_at: Option<Timestamp>,
    digest: Option<reapi::Digest>,
    blobs: Vec<reapi::Digest>,
    directories: Vec<reapi::Digest>,
}

#[tonic::async_trait]
impl Fetch for RemoteAssetService {
    async fn fetch_blob(
        &self,
        request: Request<FetchBlobRequest>,
    ) -> Result<Response<FetchBlobResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let instance = instance_name(request.instance_name)?;
        authorize(&extensions, Permission::ActionCacheRead, &instance)?;
        let function = digest_function(request.digest_function)?;
        let qualifiers = sorted(request.qualifiers);
        let found = self.fetch(Wanted {
            kind: Kind::Blob,
            instance,
            function,
            uris: request.uris,
            qualifiers: qualifiers.clone(),
            oldest: request.oldest_content_accepted,
        });
        let found = found.await?;
        Ok(Response::new(FetchBlobResponse {
            status: Some(rpc::Status::default()),
            uri: found.uri,
            qualifiers,
            expires_at: found.expires_at,
            blob_digest: Some(found.digest),
            digest_function: function.to_wire(),
        }))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let instance = instance_name(request.instance_name)?;
        authorize(&extensions, Permission::ActionCacheRead, &instance)?;
        let function = digest_function(request.digest_function)?;
        let qualifiers = sorted(request.qualifiers);
        let found = self.fetch(Wanted {
            kind: Kind::Directory,
            instance,
            function,
            uris: request.uris,
            qualifiers: qualifiers.clone(),
            oldest: request.oldest_content_accepted,
        });
        let found = found.await?;
        Ok(Response::new(FetchDirectoryResponse {
            status: Some(rpc::Status::default()),
            uri: found.uri,
            qualifiers,
            expires_at: found.expires_at,
            root_directory_digest: Some(found.digest),
            digest_function: function.to_wire(),
        }))
    }
}

#[tonic::async_trait]
impl Push for RemoteAssetService {
    async fn push_blob(
        &self,
        request: Request<PushBlobRequest>,
    ) -> Result<Response<PushBlobResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let instance = instance_name(request.instance_name)?;
        authorize(&extensions, Permission::ActionCacheWrite, &instance)?;
        let pushed = Pushed {
            kind: Kind::Blob,
            instance,
            function: request.digest_function,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            digest: request.blob_digest,
            blobs: request.references_blobs,
            directories: request.references_directories,
        };
        self.push(pushed).await?;
        Ok(Response::new(PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<PushDirectoryRequest>,
    ) -> Result<Response<PushDirectoryResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let instance = instance_name(request.instance_name)?;
        authorize(&extensions, Permission::ActionCacheWrite, &instance)?;
        let pushed = Pushed {
            kind: Kind::Directory,
            instance,
            function: request.digest_function,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            digest: request.root_directory_digest,
            blobs: request.references_blobs,
            directories: request.references_directories,
        };
        self.push(pushed).await?;
        Ok(Response::new(PushDirectoryResponse {}))
    }
}

/// `BuildStream` finds out whether the service is there by a request without URIs, which must be answered so.
fn check_uris(uris: &[String]) -> Result<(), Status> {
    if uris.is_empty() {
        return Err(Status::invalid_argument("the request names no URI"));
    }
    if uris.len() > MAX_URIS {
        return Err(Status::invalid_argument(format!(
            "the request names {} URIs, more than {MAX_URIS}",
            uris.len()
        )));
    }
    Ok(())
}

/// The order of qualifiers means nothing.
fn sorted(mut qualifiers: Vec<Qualifier>) -> Vec<Qualifier> {
    qualifiers.sort_by(|one, other| (&one.name, &one.value).cmp(&(&other.name, &other.value)));
    qualifiers
}

/// A digest that stands for an asset. Lengths stand in front of the texts, so that no two assets share one.
fn key(function: DigestFunction, kind: Kind, uri: &str, qualifiers: &[Qualifier]) -> Digest {
    let kind = match kind {
        Kind::Blob => "blob",
        Kind::Directory => "directory",
    };
    let mut text = format!("{kind} asset {}:{uri}", uri.len());
    for Qualifier { name, value } in qualifiers {
        text += &format!(" {}:{name} {}:{value}", name.len(), value.len());
    }
    function.digest(text.as_bytes())
}

fn file(digest: reapi::Digest) -> OutputFile {
    OutputFile {
        digest: Some(digest),
        ..OutputFile::default()
    }
}

fn directory(digest: reapi::Digest) -> OutputDirectory {
    OutputDirectory {
        root_directory_digest: Some(digest),
        ..OutputDirectory::default()
    }
}

fn main_digest(kind: Kind, asset: &ActionResult) -> Option<reapi::Digest> {
    match kind {
        Kind::Blob => asset.output_files.first()?.digest.clone(),
        Kind::Directory => asset.output_directories.first()?.root_directory_digest.clone(),
    }
}

fn expiry_to_wire(at: &Timestamp) -> Any {
    Any {
        type_url: TIMESTAMP_TYPE.to_owned(),
        value: at.encode_to_vec(),
    }
}

fn expiry(metadata: &ExecutedActionMetadata) -> Option<Timestamp> {
    let any = metadata.auxiliary_metadata.first()?;
    Timestamp::decode(&any.value[..]).ok()
}

fn is_before(one: Timestamp, other: Timestamp) -> bool {
    (one.seconds, one.nanos) < (other.seconds, other.nanos)
}
