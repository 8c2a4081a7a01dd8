//! Policy of requests: on whose share an Action runs, and with which priority.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use bitzel_access::{Caller, Identity};
use bitzel_proto::InstanceName;
use bitzel_proto::reapi::RequestMetadata;
use bitzel_proto::remaining_path::REMAINING_PATH;
use http::Extensions;
use tonic::metadata::MetadataMap;

use super::execution_config::{ExecutionConfig, PriorityConfig};
use super::operation_queue::Requester;

/// Maximum length of an invocation's identifier in bytes. Longer ones, which no client sends, are cut.
const MAX_INVOCATION_BYTES: usize = 128;

/// Weights of users and bounds of priorities.
#[derive(Debug)]
pub(super) struct RequestPolicy {
    weights: BTreeMap<String, NonZeroU32>,
    priority: PriorityConfig,
}

impl RequestPolicy {
    pub(super) fn new(config: &ExecutionConfig) -> Self {
        Self {
            weights: config.weights.clone(),
            priority: config.priority.clone(),
        }
    }

    /// Requester of an Action. The user is the caller's identity. All callers without credentials are one user, so that
    /// nobody gets a larger share by inventing names; only their invocations are told apart by what they say.
    pub(super) fn requester(&self, extensions: &Extensions, metadata: Option<&RequestMetadata>) -> Requester {
        let anonymous = Identity::anonymous();
        let caller = extensions.get::<Caller>();
        let identity = caller.map_or(&anonymous, |caller| &caller.identity);
        let user = identity.to_string();
        let weight = self
            .weights
            .get(&user)
            .or_else(|| self.weights.get(&identity.name));
        let invocation = metadata.map_or("", |metadata| {
            let correlated = metadata.correlated_invocations_id.as_str();
            if correlated.is_empty() {
                &metadata.tool_invocation_id
            } else {
                correlated
            }
        });
        Requester {
            user: user.into(),
            weight: weight.copied().unwrap_or(NonZeroU32::MIN),
            invocation: cut(invocation, MAX_INVOCATION_BYTES).into(),
        }
    }

    /// Priority within the bounds of an instance.
    pub(super) fn priority(&self, instance: &InstanceName, requested: i32) -> i32 {
        self.priority.bounded(instance, requested)
    }
}

/// Time that the build of a request still takes, from the header of that name in milliseconds. Zero if there is none: then the
/// order of arrival counts.
pub(super) fn remaining_path(metadata: &MetadataMap) -> Duration {
    let header = metadata.get(REMAINING_PATH).and_then(|value| value.to_str().ok());
    let milliseconds = header.and_then(|text| text.parse::<u32>().ok());
    Duration::from_millis(milliseconds.unwrap_or_default().into())
}

/// Start of a text, at most `limit` bytes long.
fn cut(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests;
