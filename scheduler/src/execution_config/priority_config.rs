//! Policy of priorities.

use std::collections::BTreeMap;
use std::time::Duration;

use bitzel_proto::InstanceName;
use schemars::JsonSchema;
use serde::Deserialize;

/// Value and bounds of `ExecutionPolicy.priority`. Smaller numbers are more urgent, 0 is normal.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PriorityConfig {
    /// Value of one level of priority. Among the Actions of one invocation it is time of waiting: an Action with priority
    /// 3 runs before one with priority 0 that arrives three steps later. Between invocations and between users it is a
    /// head start in time of the whole farm.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["1m"]))]
    pub step: Duration,
    /// Weight of the remaining path of an Action: the time that its build still takes from the start of this Action on, as
    /// the client computes it from the task graph. With weight 10, one second of it counts as much among the Actions of one
    /// invocation as 10 seconds of waiting. It changes nothing between invocations and between users. With 0, Actions of one
    /// invocation run in the order of arrival and priority.
    pub path_weight: u32,
    /// Most urgent priority that a client may request; more urgent ones count as this.
    #[schemars(example = -10)]
    pub most_urgent: i32,
    /// Least urgent priority that a client may request; less urgent ones count as this.
    #[schemars(example = 10)]
    pub least_urgent: i32,
    /// Bounds for single instances, by instance name. The permission `execute` on an instance says who may use them.
    pub instances: BTreeMap<String, PriorityBounds>,
}

/// Bounds of priorities on one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PriorityBounds {
    /// Most urgent priority.
    #[schemars(example = -100)]
    pub most_urgent: i32,
    /// Least urgent priority.
    #[schemars(example = 100)]
    pub least_urgent: i32,
}

impl Default for PriorityConfig {
    fn default() -> Self {
        Self {
            step: Duration::from_mins(1),
            path_weight: 10,
            most_urgent: -10,
            least_urgent: 10,
            instances: BTreeMap::new(),
        }
    }
}

impl PriorityConfig {
    /// Priority within the bounds of an instance.
    pub fn bounded(&self, instance: &InstanceName, requested: i32) -> i32 {
        let bounds = self.instances.get(instance.as_str());
        let (most, least) = bounds.map_or((self.most_urgent, self.least_urgent), |bounds| {
            (bounds.most_urgent, bounds.least_urgent)
        });
        // Not `clamp`, which panics if a configuration file has the bounds the wrong way round.
        requested.min(least).max(most)
    }
}
