//! Remote Asset API (`build.bazel.remote.asset.v1`), which finds blobs and directories by URI, as `BuildStream` uses it.
//!
//! An asset is kept as a result in the action cache, under a digest of kind, URI and qualifiers. So the number of assets
//! is bounded, they survive a restart, and a completeness-checking cache finds one only while all blobs are there that it
//! refers to; each look-up extends their lifetime. No Action has such a digest: the hashed text is no Action message.
//!
//! This server fetches nothing from other servers: assets that nobody pushed are `NOT_FOUND`, as the API allows.

use std::sync::Arc;

use bitzel_access::Permission;
use bitzel_cas::InstanceBlobStores;
use bitzel_cas::action_cache::ActionCache;
use bitzel_proto::asset::fetch_server::{Fetch, FetchServer};
use bitzel_proto::asset::push_server::{Push, PushServer};
use bitzel_proto::asset::{
    FetchBlobRequest, FetchBlobResponse, FetchDirectoryRequest, FetchDirectoryResponse, PushBlobRequest,
    PushBlobResponse, PushDirectoryRequest, PushDirectoryResponse, Qualifier,
};
use bitzel_proto::google::protobuf::{Any, Timestamp};
use bitzel_proto::google::rpc;
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::missing_blobs::missing_blobs_status;
use bitzel_proto::reapi::{ActionResult, ExecutedActionMetadata, OutputDirectory, OutputFile};
use bitzel_proto::{Digest, DigestFunction, reapi, timestamp};
use prost::Message;
use tonic::{Request, Response, Status};

use super::RequestContext;

/// URIs in one request, each of which is a look-up.
const MAX_URIS: usize = 256;
/// Type of the message in a result that holds the expiry of an asset.
const TIMESTAMP_TYPE: &str = "type.googleapis.com/google.protobuf.Timestamp";

/// The `Fetch` and `Push` services.
#[derive(Clone)]
pub struct RemoteAssetService {
    cache: Arc<dyn ActionCache>,
    stores: InstanceBlobStores,
}

/// Kind of an asset.
#[derive(Clone, Copy)]
enum AssetKind {
    Blob,
    Directory,
}

impl RemoteAssetService {
    /// Keeps assets in `cache`, a [`bitzel_cas::CompletenessCheckingActionCache`] over `stores`.
    pub fn new(cache: Arc<dyn ActionCache>, stores: impl Into<InstanceBlobStores>) -> Self {
        Self {
            cache,
            stores: stores.into(),
        }
    }

    /// The `Fetch` service for a tonic router.
    pub fn into_fetch_server(self) -> FetchServer<Self> {
        FetchServer::new(self).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    /// The `Push` service for a tonic router.
    pub fn into_push_server(self) -> PushServer<Self> {
        PushServer::new(self).max_decoding_message_size(MAX_MESSAGE_SIZE)
    }

    /// Finds the first of the URIs that has an asset which is recent enough.
    async fn fetch(&self, context: &RequestContext, query: &AssetQuery) -> Result<FoundAsset, Status> {
        check_uris(&query.uris)?;
        let now = timestamp::now();
        for uri in &query.uris {
            let key = key(context.function, query.kind, uri, &query.qualifiers);
            let Some(asset) = self.cache.get(&context.instance, key).await? else {
                continue;
            };
            let Some(digest) = main_digest(query.kind, &asset) else {
                continue;
            };
            let metadata = asset.execution_metadata.unwrap_or_default();
            let expires_at = expiry(&metadata);
            let has_expired = expires_at.is_some_and(|at| !is_before(now, at));
            let pushed_at = metadata.worker_completed_timestamp.unwrap_or_default();
            let is_too_old = query
                .oldest_accepted
                .is_some_and(|oldest| is_before(pushed_at, oldest));
            if has_expired || is_too_old {
                continue;
            }
            return Ok(FoundAsset {
                uri: uri.clone(),
                digest,
                expires_at,
            });
        }
        Err(Status::not_found(
            "no asset was pushed under these URIs and qualifiers, or its blobs were evicted; this server fetches \
             nothing from other servers",
        ))
    }

    async fn push(&self, context: &RequestContext, pushed: PushedAsset) -> Result<(), Status> {
        check_uris(&pushed.uris)?;
        let main = context.digest(pushed.digest.as_ref(), "digest of the asset")?;
        for named in pushed.blobs.iter().chain(&pushed.directories) {
            context.digest(Some(named), "referenced digest")?;
        }
        let store = self.stores.store(&context.instance);
        let missing = store.find_missing(&[main]).await?;
        if !missing.is_empty() {
            return Err(missing_blobs_status(&missing));
        }
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        match pushed.kind {
            AssetKind::Blob => files.push(main.to_wire()),
            AssetKind::Directory => directories.push(main.to_wire()),
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
            let key = key(context.function, pushed.kind, uri, &qualifiers);
            self.cache.put(&context.instance, key, asset.clone()).await?;
        }
        Ok(())
    }
}

/// Request to fetch an asset.
struct AssetQuery {
    kind: AssetKind,
    uris: Vec<String>,
    /// In order.
    qualifiers: Vec<Qualifier>,
    oldest_accepted: Option<Timestamp>,
}

/// Answer to an [`AssetQuery`].
struct FoundAsset {
    uri: String,
    digest: reapi::Digest,
    expires_at: Option<Timestamp>,
}

/// Request to push an asset.
struct PushedAsset {
    kind: AssetKind,
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
        let (context, request) = RequestContext::authorize(request, &[Permission::ActionCacheRead])?;
        let query = AssetQuery {
            kind: AssetKind::Blob,
            uris: request.uris,
            qualifiers: sorted(request.qualifiers),
            oldest_accepted: request.oldest_content_accepted,
        };
        let found = self.fetch(&context, &query).await?;
        Ok(Response::new(FetchBlobResponse {
            status: Some(rpc::Status::default()),
            uri: found.uri,
            qualifiers: query.qualifiers,
            expires_at: found.expires_at,
            blob_digest: Some(found.digest),
            digest_function: context.function.to_wire(),
        }))
    }

    async fn fetch_directory(
        &self,
        request: Request<FetchDirectoryRequest>,
    ) -> Result<Response<FetchDirectoryResponse>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::ActionCacheRead])?;
        let query = AssetQuery {
            kind: AssetKind::Directory,
            uris: request.uris,
            qualifiers: sorted(request.qualifiers),
            oldest_accepted: request.oldest_content_accepted,
        };
        let found = self.fetch(&context, &query).await?;
        Ok(Response::new(FetchDirectoryResponse {
            status: Some(rpc::Status::default()),
            uri: found.uri,
            qualifiers: query.qualifiers,
            expires_at: found.expires_at,
            root_directory_digest: Some(found.digest),
            digest_function: context.function.to_wire(),
        }))
    }
}

#[tonic::async_trait]
impl Push for RemoteAssetService {
    async fn push_blob(
        &self,
        request: Request<PushBlobRequest>,
    ) -> Result<Response<PushBlobResponse>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::ActionCacheWrite])?;
        self.push(&context, request.into()).await?;
        Ok(Response::new(PushBlobResponse {}))
    }

    async fn push_directory(
        &self,
        request: Request<PushDirectoryRequest>,
    ) -> Result<Response<PushDirectoryResponse>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::ActionCacheWrite])?;
        self.push(&context, request.into()).await?;
        Ok(Response::new(PushDirectoryResponse {}))
    }
}

impl From<PushBlobRequest> for PushedAsset {
    fn from(request: PushBlobRequest) -> Self {
        Self {
            kind: AssetKind::Blob,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            digest: request.blob_digest,
            blobs: request.references_blobs,
            directories: request.references_directories,
        }
    }
}

impl From<PushDirectoryRequest> for PushedAsset {
    fn from(request: PushDirectoryRequest) -> Self {
        Self {
            kind: AssetKind::Directory,
            uris: request.uris,
            qualifiers: request.qualifiers,
            expire_at: request.expire_at,
            digest: request.root_directory_digest,
            blobs: request.references_blobs,
            directories: request.references_directories,
        }
    }
}

/// Checks the number of URIs. `BuildStream` detects the service by a request without URIs, which must be refused like
/// this.
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

/// Sorts qualifiers, whose order has no meaning.
fn sorted(mut qualifiers: Vec<Qualifier>) -> Vec<Qualifier> {
    qualifiers.sort_by(|one, other| (&one.name, &one.value).cmp(&(&other.name, &other.value)));
    qualifiers
}

/// Key of an asset. Each text has its length before it, so that no two assets share a key.
fn key(function: DigestFunction, kind: AssetKind, uri: &str, qualifiers: &[Qualifier]) -> Digest {
    let kind = match kind {
        AssetKind::Blob => "blob",
        AssetKind::Directory => "directory",
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

fn main_digest(kind: AssetKind, asset: &ActionResult) -> Option<reapi::Digest> {
    match kind {
        AssetKind::Blob => asset.output_files.first()?.digest.clone(),
        AssetKind::Directory => asset.output_directories.first()?.root_directory_digest.clone(),
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
