//! Errors of a full disk.

use std::fmt::Display;
use std::io;

use bitzel_proto::Digest;

use crate::error::Error;

/// Makes an error from a failed write, for `map_err`. A full disk, whoever filled it, is [`Error::NoSpace`].
pub(crate) fn disk_error(digest: Digest, context: impl Display) -> impl FnOnce(io::Error) -> Error {
    move |source| no_space_if_full(digest, Error::io(context)(source))
}

/// Turns the error of a full disk into [`Error::NoSpace`].
pub(super) fn no_space_if_full(digest: Digest, error: Error) -> Error {
    match error {
        Error::Io { context, source } if is_full(&source) => {
            let reason = format!("{context}: {source}");
            Error::NoSpace { digest, reason }
        }
        error => error,
    }
}

/// True if a disk has no space, or a quota is used up.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
