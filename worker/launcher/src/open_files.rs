//! Limit of open files of commands.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Soft limit of open files. A server raises its own to the hard limit, which is a million on many machines. Programs
/// that close all files they could have open, as older ones do before they start others, take long for that many.
const MAX_OPEN_FILES: u64 = 1 << 16;

/// Lowers the soft limit. Commands may raise it again, to the hard limit.
pub(crate) fn limit() -> rustix::io::Result<()> {
    let limits = getrlimit(Resource::Nofile);
    let current = limits
        .current
        .map_or(MAX_OPEN_FILES, |soft| soft.min(MAX_OPEN_FILES));
    let limits = Rlimit {
        current: Some(current),
        ..limits
    };
    setrlimit(Resource::Nofile, limits)
}
