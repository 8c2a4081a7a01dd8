//! Bounds of the builds of a server.

use std::num::NonZeroUsize;
use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;

/// Builds that the server walks for clients that end before them (`bitzel build --detach`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BuildsConfig {
    /// Maximum number of builds at the same time. More are refused with `RESOURCE_EXHAUSTED`; 0 refuses all.
    pub max_running: usize,
    /// Maximum number of builds of one user at the same time. Callers without credentials are one user.
    pub max_running_per_user: usize,
    /// Maximum size of a task graph. In memory it takes several times that.
    #[schemars(with = "String", extend("examples" = ["64MiB"]))]
    pub max_graph_size: ByteSize,
    /// Maximum number of concurrent executions of one build.
    pub max_jobs: NonZeroUsize,
    /// Maximum number of events of one build that are kept for clients that attach. Earlier ones are counted.
    pub max_events: NonZeroUsize,
    /// Time for which a build that has ended is known.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["1day"]))]
    pub ended_retention: Duration,
    /// Maximum number of builds of one user that have ended and are known.
    pub max_ended_per_user: usize,
}

impl Default for BuildsConfig {
    fn default() -> Self {
        Self {
            max_running: 64,
            max_running_per_user: 8,
            max_graph_size: ByteSize::mib(64),
            max_jobs: NonZeroUsize::MIN.saturating_add(199),
            max_events: NonZeroUsize::MIN.saturating_add(9_999),
            ended_retention: Duration::from_hours(24),
            max_ended_per_user: 32,
        }
    }
}
