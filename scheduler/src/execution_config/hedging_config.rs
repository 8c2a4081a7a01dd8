//! Policy of second copies of slow Actions.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// Second copies of Actions that take longer than earlier runs of the same task. The first result counts, and the other copy
/// is cancelled. Actions with `do_not_cache` have none.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct HedgingConfig {
    /// Maximum percentage of all slots that run second copies; 0 for none. They only get slots that nobody waits for.
    pub max_percent_of_slots: u32,
    /// Number of earlier runs of a task from which it is known how long it takes.
    pub min_runs: u32,
    /// Shortest time after which an Action is run a second time.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["2m"]))]
    pub min_time: Duration,
}

impl Default for HedgingConfig {
    fn default() -> Self {
        Self {
            max_percent_of_slots: 5,
            min_runs: 5,
            min_time: Duration::from_mins(1),
        }
    }
}
