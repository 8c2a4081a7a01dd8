//! Policies of the Execution service.

mod hedging_config;
mod platform_mapping;
mod priority_config;
mod resource_config;

use std::collections::BTreeMap;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use bitzel_builds::BuildsConfig;
use schemars::JsonSchema;
use serde::Deserialize;

pub use hedging_config::HedgingConfig;
pub use platform_mapping::PlatformMapping;
pub use priority_config::{PriorityBounds, PriorityConfig};
pub use resource_config::ResourceConfig;

/// Limits and timeouts of the operation queue. The defaults suit one machine and a farm alike.
///
/// A configuration file may set each of them; durations are texts like `2m` or `1h 30m`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExecutionConfig {
    /// Maximum number of attempts to run an Action, on workers that are lost or fail. After that its clients get
    /// `UNAVAILABLE`, with the history of the attempts.
    pub max_attempts: NonZeroUsize,
    /// Number of workers that may be lost while they run an Action, in one request or in several. After that the Action
    /// is in quarantine: its clients get `FAILED_PRECONDITION` with the names of the workers. An Action that kills its
    /// worker must not be given to one worker after the other for ever.
    pub quarantine_after: NonZeroUsize,
    /// Time that an Action stays in quarantine after the last loss of a worker.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["1h"]))]
    pub quarantine_time: Duration,
    /// Weights of users, by name as in the rules of access control, such as `alice`, or with the method, such as
    /// `ci (token)`. A user with weight 2 gets twice the slots of one with weight 1, which is the default. Callers
    /// without credentials are the user `anonymous`.
    pub weights: BTreeMap<String, NonZeroU32>,
    /// Value and bounds of priorities.
    pub priority: PriorityConfig,
    /// Mappings of the platform properties that clients send by convention.
    pub platform_mappings: Vec<PlatformMapping>,
    /// Sizes of Actions.
    pub resources: ResourceConfig,
    /// Second copies of slow Actions.
    pub hedging: HedgingConfig,
    /// Maximum time that an Action waits while no registered worker could run it, busy or not. After that its clients
    /// get `FAILED_PRECONDITION` with the properties. Waiting for a busy worker is not limited.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["10m"]))]
    pub no_worker_timeout: Duration,
    /// Time that an Action continues after its last client has disconnected, so that `WaitExecution` or another
    /// `Execute` can attach again. After that it is cancelled: an interrupted build must leave no processes.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["10m"]))]
    pub abandoned_timeout: Duration,
    /// Time that clients and workers have to come back after a restart of the server. After that, operations without a
    /// client are cancelled, and Actions whose worker did not come back are queued again.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["1m"]))]
    pub reconnect_timeout: Duration,
    /// Time that a worker has to come back after its connection has ended, while its Actions go on. After that they are
    /// queued again. The Actions of a machine that fails wait for this time. Workers that are connected to another
    /// scheduler of the group, which may be lost too, have `reconnect_timeout`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["30s"]))]
    pub worker_reconnect_timeout: Duration,
    /// Time for which `WaitExecution` finds a completed operation.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["10m"]))]
    pub completed_retention: Duration,
    /// Maximum number of completed operations that are kept.
    pub max_completed_operations: usize,
    /// Maximum number of Actions that wait for a worker. More are refused with `RESOURCE_EXHAUSTED`.
    pub max_queued_actions: usize,
    /// Maximum number of Actions of one user that wait for a worker. More are refused with `RESOURCE_EXHAUSTED`. Callers
    /// without credentials are one user.
    pub max_queued_actions_per_user: usize,
    /// Builds that the server walks for clients that end before them (`bitzel build --detach`).
    pub builds: BuildsConfig,
    /// Maximum `Action.timeout`; a longer one MUST be rejected (`remote_execution.proto`, `Action.timeout`).
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["10m"]))]
    pub max_action_timeout: Duration,
}

impl Default for ExecutionConfig {
    fn default() -> Self {
        Self {
            max_attempts: NonZeroUsize::MIN.saturating_add(2),
            quarantine_after: NonZeroUsize::MIN.saturating_add(2),
            quarantine_time: Duration::from_hours(1),
            weights: BTreeMap::new(),
            priority: PriorityConfig::default(),
            platform_mappings: vec![],
            resources: ResourceConfig::default(),
            hedging: HedgingConfig::default(),
            no_worker_timeout: Duration::from_mins(2),
            abandoned_timeout: Duration::from_secs(10),
            reconnect_timeout: Duration::from_mins(1),
            // The pauses of a worker's attempts are up to 10 s long.
            worker_reconnect_timeout: Duration::from_secs(15),
            completed_retention: Duration::from_mins(5),
            max_completed_operations: 4096,
            max_queued_actions: 200_000,
            max_queued_actions_per_user: 100_000,
            builds: BuildsConfig::default(),
            max_action_timeout: Duration::from_hours(24),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_changes_only_the_policies_that_it_names() {
        let config: ExecutionConfig =
            toml::from_str("no_worker_timeout = \"10m\"\nmax_queued_actions = 5").unwrap();
        let expected = ExecutionConfig {
            no_worker_timeout: Duration::from_mins(10),
            max_queued_actions: 5,
            ..ExecutionConfig::default()
        };
        assert_eq!(config, expected);
        assert_eq!(config.max_attempts.get(), 3);
    }

    #[test]
    fn policies_may_be_part_of_a_larger_table() {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct ExecutionTable {
            enabled: bool,
            #[serde(flatten)]
            policies: ExecutionConfig,
        }
        let table: ExecutionTable = toml::from_str("enabled = true\nmax_action_timeout = \"2h\"").unwrap();
        assert!(table.enabled);
        assert_eq!(table.policies.max_action_timeout, Duration::from_hours(2));
        assert!(toml::from_str::<ExecutionTable>("enabled = true\nunknown = 1").is_err());
    }

    #[test]
    fn unknown_policies_and_zero_attempts_are_refused() {
        for text in [
            "no_worker_timout = \"10m\"",
            "max_attempts = 0",
            "abandoned_timeout = 10",
        ] {
            assert!(toml::from_str::<ExecutionConfig>(text).is_err(), "{text}");
        }
    }
}
