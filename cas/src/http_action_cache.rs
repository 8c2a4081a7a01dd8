//! An action cache behind plain HTTP.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use bytes::Bytes;
use futures::TryStreamExt;
use prost::Message;
use reqwest::Body;

use crate::action_cache::ActionCache;
use crate::error::{BackEndFailure, Error};
use crate::http_cache::HttpCache;
use crate::retry::retried;
use crate::services::MAX_MESSAGE_SIZE;

/// The results of an [`HttpCache`]. The instance goes in front of `/ac/`, as bazel-remote and bitzel understand it.
///
/// Servers like bazel-remote check that a result's blobs are there; others, like nginx, do not, and want
/// [`crate::CompletenessCheckingActionCache`] above.
pub struct HttpActionCache {
    cache: Arc<HttpCache>,
}

impl HttpActionCache {
    /// The results of `cache`.
    pub fn new(cache: Arc<HttpCache>) -> Self {
        Self { cache }
    }

    async fn get_bytes(&self, instance: &InstanceName, action: Digest) -> Result<Option<Vec<u8>>, Error> {
        let Some(answer) = self.cache.get(self.cache.result(instance, action), None).await? else {
            return Ok(None);
        };
        let collected = answer
            .body
            .try_fold(Vec::new(), |mut all, chunk: Bytes| async move {
                all.extend_from_slice(&chunk);
                if all.len() > MAX_MESSAGE_SIZE {
                    let context =
                        format!("the result of action {action} has more than {MAX_MESSAGE_SIZE} bytes");
                    return Err(Error::back_end(context, BackEndFailure::Faulty)("too many bytes"));
                }
                Ok(all)
            });
        Ok(Some(collected.await?))
    }
}

#[async_trait]
impl ActionCache for HttpActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        let Some(bytes) = retried(|| self.get_bytes(instance, action)).await? else {
            return Ok(None);
        };
        let result = ActionResult::decode(bytes.as_slice()).map_err(|source| Error::Decode {
            context: format!("the HTTP cache's result of action {action} is none"),
            source,
        })?;
        Ok(Some(result))
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        let bytes = Bytes::from(result.encode_to_vec());
        let put = || {
            let url = self.cache.result(instance, action);
            self.cache.put(url, bytes.len() as u64, Body::from(bytes.clone()))
        };
        retried(put).await
    }
}

#[cfg(test)]
mod tests;
