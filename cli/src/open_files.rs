//! Limit of open files of this process.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Files that a server opens beside its connections: blobs, segments, uploads.
const FILES_BESIDE_CONNECTIONS: u64 = 2_000;

/// Raises the soft limit to the hard limit. The soft limit is for programs that still use select(2), 1,024 on most systems:
/// a server runs into it with as many connections, and then it can open no blob either. Commands of Actions get a smaller
/// one from their launcher.
///
/// The warning for the log if `connections` do not fit into the limit.
pub(crate) fn raise(connections: usize) -> Option<String> {
    let (soft, hard) = match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok(limits) => limits,
        Err(error) => return Some(format!("cannot read the limit of open files: {error}")),
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let connections = u64::try_from(connections).unwrap_or(u64::MAX);
    let needed = connections.saturating_add(FILES_BESIDE_CONNECTIONS);
    (limit < needed).then(|| {
        format!(
            "this process may open {limit} files, and {connections} connections may need {needed}: set LimitNOFILE= in \
             its systemd unit or `ulimit -Hn`, or lower limits.connections"
        )
    })
}
