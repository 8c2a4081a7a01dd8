//! What a worker has to be told.

use std::path::PathBuf;
use std::time::Duration;

use bitzel_proto::reapi::Platform;
use bitzel_proto::reapi::platform::Property;

/// How Actions are executed on this machine.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Directory of the file cache, of layers and of running Actions. One worker only; it is created with mode 0700.
    /// It has to be on one file system that knows hardlinks and user extended attributes (ext4, xfs, btrfs).
    pub cache_directory: PathBuf,
    /// Where Actions write: what they change in their tree, and their output. `None` for the cache directory. One in memory
    /// makes small Actions faster; what all running Actions write has to fit into it, as a command that finds it full
    /// fails. One worker only; it is created with mode 0700.
    pub scratch_directory: Option<PathBuf>,
    /// How many bytes the file cache may keep. Files of running Actions stay even beyond it.
    pub cache_size_bytes: u64,
    /// Directories of this machine that commands can read besides `/usr`, at the same path.
    pub host_directories: Vec<PathBuf>,
    /// How long an Action without a timeout may run.
    pub default_timeout: Duration,
    /// The longest timeout that an Action may ask for.
    pub maximum_timeout: Duration,
    /// Name of this worker in `ExecutedActionMetadata`.
    pub worker_name: String,
}

impl ExecutorConfig {
    /// A configuration with the usual limits: 20 GiB of cache, one day for an Action.
    pub fn new(cache_directory: impl Into<PathBuf>) -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            cache_directory: cache_directory.into(),
            scratch_directory: None,
            cache_size_bytes: 20 << 30,
            host_directories: vec![],
            default_timeout: DAY,
            maximum_timeout: DAY,
            worker_name: "worker".into(),
        }
    }
}

/// A worker: what Actions it takes, and how many.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// How many Actions run at the same time, at least 1.
    pub slots: u32,
    /// What Actions may ask for in their platform properties.
    pub platform: Platform,
    /// How long Actions may go on running after a shutdown was asked for. They are cancelled then; the scheduler
    /// gives them to others.
    pub drain_timeout: Duration,
    /// How Actions are executed.
    pub executor: ExecutorConfig,
}

impl WorkerConfig {
    /// A worker that describes this machine and stops at once when asked to.
    pub fn new(slots: u32, executor: ExecutorConfig) -> Self {
        Self {
            slots,
            platform: this_platform(),
            drain_timeout: Duration::ZERO,
            executor,
        }
    }
}

/// The platform properties of this machine, named as the specification's list of standard properties does.
pub fn this_platform() -> Platform {
    let isa = match std::env::consts::ARCH {
        "x86_64" => "x86-64",
        "aarch64" => "arm-a64",
        other => other,
    };
    let property = |name: &str, value: &str| Property {
        name: name.into(),
        value: value.into(),
    };
    Platform {
        properties: vec![property("ISA", isa), property("OSFamily", std::env::consts::OS)],
    }
}
