//! The results of Actions.

use std::collections::HashSet;
use std::sync::Arc;

use bitzel_proto::reapi::action_cache_server::{ActionCache as ActionCacheApi, ActionCacheServer};
use bitzel_proto::reapi::{self, ActionResult, GetActionResultRequest, UpdateActionResultRequest};
use bitzel_proto::{Digest, DigestFunction};
use metrics::counter;
use prost::Message;
use tonic::{Request, Response, Status};

use super::{MAX_BATCH_TOTAL_SIZE, MAX_MESSAGE_SIZE, digest, digest_function, instance_name};
use crate::access::{Permission, authorize};
use crate::action_cache::ActionCache;
use crate::blob_store::{BlobStore, read_whole};

/// The `ActionCache` service.
#[derive(Clone)]
pub struct ActionCacheService {
    cache: Arc<dyn ActionCache>,
    store: Arc<dyn BlobStore>,
    updates: bool,
}

impl ActionCacheService {
    /// Serves `cache`; what is to be inlined comes from `store`. Without `updates`, clients only read.
    pub fn new(cache: Arc<dyn ActionCache>, store: Arc<dyn BlobStore>, updates: bool) -> Self {
        Self {
            cache,
            store,
            updates,
        }
    }

    /// The service for a tonic router.
    pub fn into_server(self) -> ActionCacheServer<Self> {
        ActionCacheServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE)
    }
}

#[tonic::async_trait]
impl ActionCacheApi for ActionCacheService {
    async fn get_action_result(
        &self,
        request: Request<GetActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let (_, extensions, request) = request.into_parts();
        let function = digest_function(request.digest_function)?;
        let action = digest(function, request.action_digest.as_ref(), "action digest")?;
        let instance = instance_name(request.instance_name)?;
        authorize(&extensions, Permission::ActionCacheRead, &instance)?;
        let result = self.cache.get(&instance, action).await?;
        let outcome = if result.is_some() { "hit" } else { "miss" };
        counter!("bitzel_action_cache_lookups_total", "outcome" => outcome).increment(1);
        let mut result = result.ok_or_else(|| {
            Status::not_found(format!("the action cache holds no result of action {action}"))
        })?;
        let wishes = Wishes {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: request.inline_output_files.into_iter().collect(),
        };
        inline(&*self.store, function, &mut result, &wishes).await;
        Ok(Response::new(result))
    }

    async fn update_action_result(
        &self,
        request: Request<UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        if !self.updates {
            return Err(Status::permission_denied(
                "this server takes action results from its own workers only",
            ));
        }
        let (_, extensions, request) = request.into_parts();
        let function = digest_function(request.digest_function)?;
        let action = digest(function, request.action_digest.as_ref(), "action digest")?;
        let instance = instance_name(request.instance_name)?;
        authorize(&extensions, Permission::ActionCacheWrite, &instance)?;
        let result = request
            .action_result
            .ok_or_else(|| Status::invalid_argument("the action result is missing"))?;
        check_digests(function, &result)?;
        self.cache.put(&instance, action, result.clone()).await?;
        Ok(Response::new(result))
    }
}

/// What a client wants to have within the result.
struct Wishes {
    stdout: bool,
    stderr: bool,
    files: HashSet<String>,
}

/// Brings a result into the form that was asked for: contents inline on request and as far as they fit into the
/// message, digests otherwise. What has no digest stays inline, or it would be lost.
async fn inline(store: &dyn BlobStore, function: DigestFunction, result: &mut ActionResult, wishes: &Wishes) {
    settle(
        &mut result.stdout_raw,
        result.stdout_digest.as_ref(),
        wishes.stdout,
    );
    settle(
        &mut result.stderr_raw,
        result.stderr_digest.as_ref(),
        wishes.stderr,
    );
    for file in &mut result.output_files {
        let wanted = wishes.files.contains(&file.path);
        settle(&mut file.contents, file.digest.as_ref(), wanted);
    }
    let mut room = MAX_BATCH_TOTAL_SIZE.saturating_sub(result.encoded_len() as u64);
    if wishes.stdout {
        fill(
            store,
            function,
            &mut result.stdout_raw,
            result.stdout_digest.as_ref(),
            &mut room,
        )
        .await;
    }
    if wishes.stderr {
        fill(
            store,
            function,
            &mut result.stderr_raw,
            result.stderr_digest.as_ref(),
            &mut room,
        )
        .await;
    }
    for file in &mut result.output_files {
        if wishes.files.contains(&file.path) {
            fill(
                store,
                function,
                &mut file.contents,
                file.digest.as_ref(),
                &mut room,
            )
            .await;
        }
    }
}

/// Drops inline content that nobody asked for.
fn settle(content: &mut Vec<u8>, digest: Option<&reapi::Digest>, wanted: bool) {
    if !wanted && digest.is_some() {
        content.clear();
    }
}

/// Fetches content that was asked for. Inlining is a courtesy: what does not fit or is gone stays a digest.
async fn fill(
    store: &dyn BlobStore,
    function: DigestFunction,
    content: &mut Vec<u8>,
    digest: Option<&reapi::Digest>,
    room: &mut u64,
) {
    let Ok(digest) = Digest::from_wire_field(function, digest) else {
        return;
    };
    if !content.is_empty() || digest.size_bytes() > *room {
        return;
    }
    match read_whole(store, digest).await {
        Ok(blob) => {
            *room -= digest.size_bytes();
            *content = blob.into();
        }
        Err(error) => tracing::debug!(%digest, %error, "not inlined"),
    }
}

/// A result that names malformed digests could never be a hit.
pub(crate) fn check_digests(function: DigestFunction, result: &ActionResult) -> Result<(), Status> {
    for file in &result.output_files {
        digest(
            function,
            file.digest.as_ref(),
            &format!("output file {:?}", file.path),
        )?;
    }
    for directory in &result.output_directories {
        let what = format!("output directory {:?}", directory.path);
        if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
            return Err(Status::invalid_argument(format!("{what} has no digest")));
        }
        for named in [&directory.tree_digest, &directory.root_directory_digest]
            .into_iter()
            .flatten()
        {
            digest(function, Some(named), &what)?;
        }
    }
    for named in [&result.stdout_digest, &result.stderr_digest]
        .into_iter()
        .flatten()
    {
        digest(function, Some(named), "stdout or stderr")?;
    }
    Ok(())
}
