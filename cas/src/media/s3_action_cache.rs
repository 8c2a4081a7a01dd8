//! Action cache in an S3 bucket.

use std::sync::Arc;

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};
use prost::Message;

use crate::action_cache::ActionCache;
use crate::error::Error;
use crate::media::action_result_message::read_result;
use crate::media::s3_bucket::S3Bucket;

/// Results of an [`S3Bucket`], under `ac/{instance}/{function}/{hash}-{size}`.
///
/// S3 does not know which blobs a result needs: use [`crate::CompletenessCheckingActionCache`] as a decorator.
pub struct S3ActionCache {
    bucket: Arc<S3Bucket>,
}

impl S3ActionCache {
    /// Makes an action cache of the results of `bucket`.
    pub fn new(bucket: Arc<S3Bucket>) -> Self {
        Self { bucket }
    }

    fn key(&self, instance: &InstanceName, action: Digest) -> String {
        let function = action.function().name();
        let mut instance = instance.to_string();
        if !instance.is_empty() {
            instance.push('/');
        }
        let (hash, size) = (action.hash_hex(), action.size_bytes());
        self.bucket.key(&format!("ac/{instance}{function}/{hash}-{size}"))
    }
}

#[async_trait]
impl ActionCache for S3ActionCache {
    async fn get(&self, instance: &InstanceName, action: Digest) -> Result<Option<ActionResult>, Error> {
        let key = self.key(instance, action);
        let Some((_, body)) = self.bucket.get(&key, None).await? else {
            return Ok(None);
        };
        read_result(action, body, "S3").await.map(Some)
    }

    async fn put(&self, instance: &InstanceName, action: Digest, result: ActionResult) -> Result<(), Error> {
        let key = self.key(instance, action);
        self.bucket.put(&key, result.encode_to_vec().into()).await
    }
}

#[cfg(test)]
mod tests {
    use bitzel_proto::DigestFunction;

    use super::*;
    use crate::media::s3_bucket::tests::{BUCKET, TestS3Server};
    use crate::testing::failing_action_cache::result;
    use crate::testing::sha256;

    #[tokio::test]
    async fn results_are_kept_apart_by_instance() {
        let server = TestS3Server::start().await;
        let cache = S3ActionCache::new(server.bucket().await);
        let (one, other) = (InstanceName::default(), InstanceName::new("team/one").unwrap());
        let action = sha256(b"action");
        assert_eq!(cache.get(&one, action).await.unwrap(), None);
        for instance in [&one, &other] {
            cache.put(instance, action, result(1)).await.unwrap();
        }
        cache.put(&one, action, result(2)).await.unwrap();
        assert_eq!(cache.get(&one, action).await.unwrap(), Some(result(2)));
        assert_eq!(cache.get(&other, action).await.unwrap(), Some(result(1)));
        let blake3 = Digest::new(DigestFunction::Blake3, *action.hash(), action.size_bytes());
        assert_eq!(cache.get(&one, blake3).await.unwrap(), None);
        let path = server.directory.path().join(BUCKET).join(cache.key(&one, action));
        std::fs::write(path, "hello").unwrap();
        let error = cache.get(&one, action).await.unwrap_err();
        assert!(matches!(error, Error::Decode { .. }), "{error:?}");
    }
}
