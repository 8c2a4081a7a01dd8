//! Policy of resources.

use std::time::Duration;

use bytesize::ByteSize;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::resources::Resources;

/// Sizes of Actions. A worker takes an Action only if the memory, processors and disk space of all its Actions together fit
/// it. What an Action does not state in its platform properties is learnt from earlier runs of the same task, by
/// `target_id` and `action_mnemonic` of `RequestMetadata`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceConfig {
    /// Platform properties that state memory, such as `8GiB`. The first that an Action has counts. They are not matched
    /// with those of workers.
    #[schemars(example = ["bitzel:memory", "EstimatedMemory"])]
    pub memory_properties: Vec<String>,
    /// Platform properties that state processors, such as `2`, `0.5` or `500m`.
    #[schemars(example = ["bitzel:cpus", "EstimatedCPU", "min-cores"])]
    pub cpu_properties: Vec<String>,
    /// Platform properties that state disk space, such as `20GiB`.
    #[schemars(example = ["bitzel:disk", "EstimatedFreeDiskBytes"])]
    pub disk_properties: Vec<String>,
    /// Memory of an Action of which nothing is known.
    #[schemars(with = "String", extend("format" = "size", "default" = "512MiB", "examples" = ["1GiB"]))]
    pub unknown_memory: ByteSize,
    /// Thousandths of processors of an Action of which nothing is known.
    pub unknown_millicpus: u32,
    /// Percentage that is added to the memory and disk space that earlier runs used.
    pub margin_percent: u32,
    /// Time after which a worker is kept free for an Action that is next by its share and fits on no worker. Meanwhile
    /// smaller ones go before it.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("format" = "duration", "examples" = ["1m"]))]
    pub reservation_after: Duration,
    /// Maximum number of tasks whose use of resources is remembered. The one that ran longest ago is forgotten first.
    pub max_tasks: usize,
}

impl Default for ResourceConfig {
    fn default() -> Self {
        Self {
            memory_properties: vec!["bitzel:memory".to_owned()],
            cpu_properties: vec!["bitzel:cpus".to_owned()],
            disk_properties: vec!["bitzel:disk".to_owned()],
            unknown_memory: ByteSize::mib(512),
            unknown_millicpus: 1000,
            margin_percent: 20,
            reservation_after: Duration::from_secs(30),
            max_tasks: 20_000,
        }
    }
}

impl ResourceConfig {
    /// Resources of an Action of which nothing is known.
    pub fn unknown(&self) -> Resources {
        Resources {
            memory_bytes: self.unknown_memory.as_u64(),
            millicpus: self.unknown_millicpus.into(),
            disk_bytes: 0,
        }
    }

    /// True if a platform property states a resource.
    pub fn is_property(&self, name: &str) -> bool {
        let names = [
            &self.memory_properties,
            &self.cpu_properties,
            &self.disk_properties,
        ];
        names.into_iter().flatten().any(|known| known == name)
    }
}
