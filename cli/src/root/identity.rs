//! Identity of the root file system in which tasks run (decision 0036).

use bitzel_cas::blocking::run_blocking;
use bitzel_worker::{RootIdentity, RootParts};

use crate::arguments::RemoteArguments;
use crate::command_error::CommandError;
use crate::console;

/// Identity that Actions of a build require of their worker: the one that `--root-identity` names, or that of this
/// machine. A build without `--remote` has only the worker in its own process.
pub(crate) async fn requested_identity(arguments: &RemoteArguments) -> Result<RootIdentity, CommandError> {
    let requested = arguments.root_identity.clone();
    if let (Some(_), Some(requested)) = (&arguments.remote, &requested) {
        return Ok(requested.clone());
    }
    match (identity_of_this_machine().await, requested) {
        (Ok(own), Some(requested)) if own != requested => Err(CommandError::new(format!(
            "--root-identity asks for {requested}, but tasks would run on this machine, which is {own}"
        ))
        .hint("build on a server that has such workers with --remote, or leave out --root-identity")),
        (Ok(own), _) => Ok(own),
        // The user vouches for a name where none can be computed.
        (Err(_), Some(requested)) => Ok(requested),
        (Err(error), None) => Err(error.hint("name the root file system yourself: --root-identity NAME")),
    }
}

/// Identity that a worker on this machine offers: the one that its operator gave, or the computed one. A worker without an
/// identity is of use for clients that do not ask for one, such as Bazel.
pub(crate) async fn offered_identity(given: Option<RootIdentity>) -> Option<RootIdentity> {
    if given.is_some() {
        return given;
    }
    let computed = identity_of_this_machine().await;
    computed
        .map_err(|error| {
            console::warn(&format!(
                "{error}  this worker runs no tasks of BitBake builds until it has --root-identity NAME"
            ));
        })
        .ok()
}

async fn identity_of_this_machine() -> Result<RootIdentity, CommandError> {
    let parts = run_blocking(RootParts::of_this_machine).await?;
    Ok(parts.identity())
}
