//! Session keyring of commands, see keyrings(7).

use std::io;

use rustix::io::Errno;

use crate::raw_calls;

/// Leaves the worker's session keyring for a new, empty one. Otherwise a command could use the worker's keys, and leave
/// keys there to the next command.
pub(crate) fn leave_workers_keyring() -> io::Result<()> {
    match raw_calls::join_new_session_keyring() {
        // This kernel has no keys, or this container may not use them: the command may not either.
        Err(error) if [Some(Errno::NOSYS), Some(Errno::PERM)].contains(&Errno::from_io_error(&error)) => {
            Ok(())
        }
        other => other,
    }
}
