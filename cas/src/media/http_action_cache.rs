//! Action cache behind plain HTTP.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use bytes::Bytes;
use prost::Message;
use reqwest::Body;

use crate::action_cache::ActionCache;
use crate::error::Error;
use crate::media::action_result_message::read_result;
use crate::media::http_cache::HttpCache;
use crate::retry::retried;

/// Results of an [`HttpCache`]. The instance name comes before `/ac/`, as bazel-remote and bitzel expect it.
///
/// Servers like bazel-remote check that a result's blobs are present; others, like nginx, do not, and need
/// [`crate::CompletenessCheckingActionCache`] as a decorator.
pub struct HttpActionCache {
    cache: Arc<HttpCache>,
}

impl HttpActionCache {
    /// Makes an action cache of the results of `cache`.
    pub fn new(cache: Arc<HttpCache>) -> Self {
        Self { cache }
    }

    async fn read(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        match self.cache.get(self.cache.result(instance, action)?, None).await? {
            None => Ok(None),
            Some(response) => read_result(action, response.body, "the HTTP cache")
                .await
                .map(Some),
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
        let url = self.cache.result(instance, action)?;
        let put = || {
            let url = url.clone();
            self.cache.put(url, bytes.len() as u64, Body::from(bytes.clone()))
        };
        retried(put).await
    }
}

#[cfg(test)]
mod tests;
