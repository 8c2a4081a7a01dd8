//! Policy of requests: on whose share an Action runs, and with which priority.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use bitzel_access::{Caller, Identity};
use bitzel_proto::InstanceName;
use bitzel_proto::reapi::RequestMetadata;
use bitzel_proto::scheduling_hint::{INPUT_TREES, REMAINING_PATH, parse_input_trees};
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

/// Hints of a client about one Action, from the headers of its request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct SchedulingHints {
    /// Time that its build still takes from its start on. Zero if the client does not tell it: then the order of arrival
    /// counts.
    pub(super) remaining_path: Duration,
    /// Starts of the digests of its largest input trees.
    pub(super) input_trees: Arc<[u64]>,
}

impl SchedulingHints {
    pub(super) fn read(metadata: &MetadataMap) -> Self {
        let header = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let milliseconds = header(REMAINING_PATH).and_then(|text| text.parse::<u32>().ok());
        Self {
            remaining_path: Duration::from_millis(milliseconds.unwrap_or_default().into()),
            input_trees: header(INPUT_TREES)
                .map(parse_input_trees)
                .unwrap_or_default()
                .into(),
        }
    }
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
