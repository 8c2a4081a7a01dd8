//! Next steps for answers of servers, by status code.

use std::error::Error;

use bitzel_proto::find_status;
use tonic::Code;

use crate::command_error::CommandError;

/// Advice for a user whose call got a status with this code, where there is some.
pub(crate) fn status_hint(code: Code) -> Option<&'static str> {
    match code {
        Code::Unauthenticated => Some(
            "identify yourself with --token-file FILE, --tls-cert and --tls-key, or BITZEL_USER and BITZEL_PASSWORD; a \
             token may have expired",
        ),
        Code::PermissionDenied => Some(
            "ask the operator of the server for a rule that allows this, or use another instance with --instance NAME",
        ),
        Code::Unavailable => Some(
            "check that the server runs and can be reached; when it is back, the same command continues where this one \
             ended",
        ),
        Code::ResourceExhausted => Some("try again later, or with fewer concurrent tasks: --jobs N"),
        _ => None,
    }
}

/// The error of a call, with the next step for the server's answer, if it gave one.
pub(crate) fn with_status_hint(error: impl Error + Send + Sync + 'static) -> CommandError {
    let hint = find_status(&error).and_then(|status| status_hint(status.code()));
    let error = CommandError::from(error);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}
