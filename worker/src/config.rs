//! What a worker has to be told.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How Actions are executed on this machine.
#[derive(Debug, Clone)]
pub struct ExecutorConfig {
    /// Directory of the file cache, of layers and of running Actions. One worker only; it is created with mode 0700.
    /// It has to be on one file system that knows hardlinks and user extended attributes (ext4, xfs, btrfs).
    pub cache_directory: PathBuf,
    /// How many bytes the file cache may keep. Files of running Actions stay even beyond it.
    pub cache_size_bytes: u64,
    /// Command prefix that reaches [`crate::launcher::main`]: a program and the arguments before the launcher's own.
    pub launcher: Vec<OsString>,
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
    pub fn new(cache_directory: impl Into<PathBuf>, launcher: Vec<OsString>) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            cache_directory: cache_directory.into(),
            cache_size_bytes: 20 << 30,
            launcher,
            host_directories: vec![],
            default_timeout: DAY,
            maximum_timeout: DAY,
            worker_name: "worker".into(),
        }
    }
}
