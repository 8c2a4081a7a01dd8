//! Action cache that fails, for the tests of decorators.

use async_trait::async_trait;
use bitzel_proto::reapi::ActionResult;
use bitzel_proto::{Digest, InstanceName};

use crate::action_cache::ActionCache;
use crate::error::Error;
use crate::testing::failing_blob_store::down;

/// Fails every call, like a server that is down.
pub(crate) struct FailingActionCache;

#[async_trait]
impl ActionCache for FailingActionCache {
    async fn get(&self, _: &InstanceName, _: Digest) -> Result<Option<ActionResult>, Error> {
        Err(down())
    }

    async fn put(&self, _: &InstanceName, _: Digest, _: ActionResult) -> Result<(), Error> {
        Err(down())
    }
}

/// A result that differs by `exit_code`.
pub(crate) fn result(exit_code: i32) -> ActionResult {
    ActionResult {
        exit_code,
        ..ActionResult::default()
    }
}
