//! `ActionCache`: results of Actions.

use std::sync::Arc;

use bitzel_access::{Permission, ResponseMemory};
use bitzel_cas::InstanceBlobStores;
use bitzel_cas::action_cache::ActionCache;
use bitzel_cas::inlining::{InlineRequest, inline};
use bitzel_proto::DigestFunction;
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::reapi::action_cache_server::{ActionCache as ActionCacheApi, ActionCacheServer};
use bitzel_proto::reapi::{ActionResult, GetActionResultRequest, UpdateActionResultRequest};
use metrics::counter;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::{RequestContext, digest, holding};

/// The `ActionCache` service.
#[derive(Clone)]
pub struct ActionCacheService {
    cache: Arc<dyn ActionCache>,
    stores: InstanceBlobStores,
}

impl ActionCacheService {
    /// Serves `cache`. Contents that a client asks for inline come from the store of its instance.
    pub fn new(cache: Arc<dyn ActionCache>, stores: impl Into<InstanceBlobStores>) -> Self {
        Self {
            cache,
            stores: stores.into(),
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
        let (context, request) = RequestContext::authorize(request, &[Permission::ActionCacheRead])?;
        let action = context.digest(request.action_digest.as_ref(), "action digest")?;
        let inline_request = InlineRequest {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: request.inline_output_files.into_iter().collect(),
        };
        let store = self.stores.store(&context.instance);
        let mut memory = None;
        loop {
            let result = self.cache.get(&context.instance, action).await?;
            if memory.is_none() {
                let outcome = if result.is_some() { "hit" } else { "miss" };
                counter!("bitzel_action_cache_lookups_total", "outcome" => outcome).increment(1);
            }
            let mut result = result.ok_or_else(|| {
                Status::not_found(format!("the action cache holds no result of action {action}"))
            })?;
            inline(&*store, context.function, &mut result, &inline_request).await;
            let size = result.encoded_len() as u64;
            if let Some(memory) =
                memory.or_else(|| ResponseMemory::try_for_message(&context.extensions, size))
            {
                return Ok(holding(memory, result));
            }
            // Many that wait must not hold their results meanwhile.
            drop(result);
            memory = Some(ResponseMemory::for_message(&context.extensions, size).await?);
        }
    }

    async fn update_action_result(
        &self,
        request: Request<UpdateActionResultRequest>,
    ) -> Result<Response<ActionResult>, Status> {
        let (context, request) = RequestContext::authorize(request, &[Permission::ActionCacheWrite])?;
        let action = context.digest(request.action_digest.as_ref(), "action digest")?;
        let result = request
            .action_result
            .ok_or_else(|| Status::invalid_argument("the action result is missing"))?;
        check_digests(context.function, &result)?;
        self.cache.put(&context.instance, action, result.clone()).await?;
        Ok(Response::new(result))
    }
}

/// Refuses a result with malformed digests, which could never be a hit.
pub(crate) fn check_digests(function: DigestFunction, result: &ActionResult) -> Result<(), Status> {
    for file in &result.output_files {
        digest(
            function,
            file.digest.as_ref(),
            format_args!("output file {:?}", file.path),
        )?;
    }
    for directory in &result.output_directories {
        let field = format_args!("output directory {:?}", directory.path);
        if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
            return Err(Status::invalid_argument(format!("{field} has no digest")));
        }
        for named in [&directory.tree_digest, &directory.root_directory_digest]
            .into_iter()
            .flatten()
        {
            digest(function, Some(named), field)?;
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
