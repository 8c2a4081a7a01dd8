//! An action cache behind plain HTTP.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use bytes::Bytes;
use prost::Message;
use reqwest::Body;

use crate::action_cache::ActionCache;
use crate::error::Error;
use crate::media::http_cache::HttpCache;
use crate::media::result_message::read_result;
use crate::retry::retried;

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

    async fn read(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        match self.cache.get(self.cache.result(instance, action), None).await? {
            None => Ok(None),
            Some(answer) => read_result(action, answer.body, "the HTTP cache").await.map(Some),
        }
    }
}

#[async_trait]
impl ActionCache for HttpActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        retried(|| self.read(instance, action)).await
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
