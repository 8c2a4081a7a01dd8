//! Action cache behind the Remote Execution API.

use async_trait::async_trait;
use bitzel_proto::limits::MAX_MESSAGE_SIZE;
use bitzel_proto::reapi::action_cache_client::ActionCacheClient;
use bitzel_proto::reapi::{ActionResult, GetActionResultRequest, UpdateActionResultRequest};
use bitzel_proto::{Digest, InstanceName};
use bitzel_rpc::endpoint::Channel;
use tonic::Code;

use crate::action_cache::ActionCache;
use crate::error::Error;
use crate::retry::retried;

/// Client of the `ActionCache` service. Calls with a transient failure are repeated with back-off.
#[derive(Debug, Clone)]
pub struct RemoteActionCache {
    client: ActionCacheClient<Channel>,
}

impl RemoteActionCache {
    /// Makes a client on a channel from [`bitzel_rpc::endpoint::connect`].
    pub fn new(channel: Channel) -> Self {
        let client = ActionCacheClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE);
        Self { client }
    }
}

#[async_trait]
impl ActionCache for RemoteActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        let request = GetActionResultRequest {
            instance_name: instance.to_string(),
            action_digest: Some(action.to_wire()),
            digest_function: action.function().to_wire(),
            ..GetActionResultRequest::default()
        };
        let get = async || match self.client.clone().get_action_result(request.clone()).await {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(Error::remote(format_args!(
                "cannot look up action {action} in the action cache"
            ))(status)),
        };
        retried(get).await
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        let request = UpdateActionResultRequest {
            instance_name: instance.to_string(),
            action_digest: Some(action.to_wire()),
            action_result: Some(result),
            results_cache_policy: None,
            digest_function: action.function().to_wire(),
        };
        let update = async || {
            let updated = self.client.clone().update_action_result(request.clone()).await;
            updated.map_err(Error::remote(format_args!(
                "cannot put the result of action {action} into the action cache"
            )))
        };
        retried(update).await?;
        Ok(())
    }
}
