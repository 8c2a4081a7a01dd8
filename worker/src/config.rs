//! Configuration of a worker.

use std::path::PathBuf;
use std::time::Duration;

use bitzel_proto::reapi::Platform;
use bitzel_proto::reapi::platform::Property;

use crate::bounds::Bounds;
use crate::root_identity::RootIdentity;
use crate::user_access::UserAccess;

/// Configuration of the execution of Actions on this machine.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Directory of the file cache, of layers and of running Actions, created with mode 0700. One worker only. It has to
    /// lie on one file system with hardlinks and user extended attributes (ext4, xfs, btrfs).
    pub cache_directory: PathBuf,
    /// Directory of the scratch space, created with mode 0700: the changes of Actions to their trees, and their logs. `None`
    /// for the cache directory. One worker only. A directory in memory makes small Actions faster, but everything that
    /// running Actions write has to fit into it: a command that finds it full fails.
    pub scratch_directory: Option<PathBuf>,
    /// Limit of the file cache in bytes. Files of running Actions stay even beyond it.
    pub cache_size_bytes: u64,
    /// Limit of the bytes that inputs of upcoming Actions hold in the file cache together. With 0 none are fetched.
    pub prefetch_bytes: u64,
    /// Limit of the directories and symlinks in the layers of input roots, which take an inode and a block each. Layers of
    /// running Actions stay even beyond it.
    pub max_layer_entries: u64,
    /// Directories of this machine that commands can read at the same path, in addition to `/usr`.
    pub host_directories: Vec<PathBuf>,
    /// Access of commands to the user's files and variables. `None` unless the worker is a part of the user's own program.
    pub user_access: Option<UserAccess>,
    /// Timeout of an Action that sets none.
    pub default_timeout: Duration,
    /// Longest timeout that an Action may set.
    pub maximum_timeout: Duration,
    /// Bounds of each Action.
    pub bounds: Bounds,
    /// Name of this worker in `ExecutedActionMetadata`.
    pub worker_name: String,
}

impl ExecutorConfig {
    /// A configuration with the default limits: 20 GiB of cache, 2,000,000 entries of layers (8 GB on ext4), one day for an
    /// Action.
    pub fn new(cache_directory: impl Into<PathBuf>) -> Self {
        const DAY: Duration = Duration::from_hours(24);
        Self {
            cache_directory: cache_directory.into(),
            scratch_directory: None,
            cache_size_bytes: 20 << 30,
            prefetch_bytes: 0,
            max_layer_entries: 2_000_000,
            host_directories: vec![],
            user_access: None,
            default_timeout: DAY,
            maximum_timeout: DAY,
            bounds: Bounds::default(),
            worker_name: "worker".into(),
        }
    }
}

/// Configuration of a worker: its slots, its platform and its executor.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// Number of Actions that run at the same time, at least 1.
    pub slots: u32,
    /// Platform properties that Actions may require.
    pub platform: Platform,
    /// Time that running Actions have after the start of a shutdown. After it they are cancelled, and the scheduler
    /// assigns them to other workers.
    pub drain_timeout: Duration,
    /// Pool of workers that scale together; empty if it has none.
    pub pool: String,
    /// Configuration of the execution of Actions.
    pub executor: ExecutorConfig,
}

impl WorkerConfig {
    /// A worker with the platform of this machine that shuts down without a drain time.
    pub fn new(slots: u32, executor: ExecutorConfig) -> Self {
        Self {
            slots,
            platform: this_platform(),
            drain_timeout: Duration::ZERO,
            pool: String::new(),
            executor,
        }
    }
}

/// The platform properties that a worker on this machine offers: those of the machine, the identity of its root file
/// system, if it has one, and that of image roots.
pub fn offered_platform(root_identity: Option<&RootIdentity>) -> Platform {
    let mut platform = this_platform();
    let root = root_identity.map(RootIdentity::to_property);
    platform.properties.extend(root);
    platform
        .properties
        .push(RootIdentity::of_image_roots().to_property());
    platform
}

/// The platform properties of this machine, under the names of the specification's list of standard properties.
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
