//! Identity of the root file system of this machine (decision 0036).

use bitzel_cas::blocking::run_blocking;
use bitzel_worker::{RootIdentity, RootParts};

use crate::arguments::RemoteArguments;
use crate::command_error::CommandError;
use crate::console;

/// Identity of a root that has none, in the keys of caches on this machine.
const UNKNOWN: &str = "unknown";

/// Identities that concern a build on roots of workers.
pub(crate) struct MachineIdentities {
    /// Identity that Actions require of their worker: the one that `--root-identity` names, or that of this machine.
    pub(crate) required: RootIdentity,
    /// Identity of this machine, in which the front end runs.
    pub(crate) own: String,
}

/// Identities of a build. A build without `--remote` has only the worker in its own process.
pub(crate) async fn machine_identities(
    arguments: &RemoteArguments,
) -> Result<MachineIdentities, CommandError> {
    let own = identity_of_this_machine().await;
    let own_text = own
        .as_ref()
        .map_or_else(|_| UNKNOWN.to_owned(), RootIdentity::to_string);
    let required = required_identity(arguments, own)?;
    Ok(MachineIdentities {
        required,
        own: own_text,
    })
}

fn required_identity(
    arguments: &RemoteArguments,
    own: Result<RootIdentity, CommandError>,
) -> Result<RootIdentity, CommandError> {
    let requested = arguments.root_identity.clone();
    if let (Some(_), Some(requested)) = (&arguments.remote, &requested) {
        return Ok(requested.clone());
    }
    match (own, requested) {
        (Ok(own), Some(requested)) if own != requested => Err(CommandError::new(format!(
            "--root-identity asks for {requested}, but tasks would run on this machine, which is {own}"
        ))
        .hint("build on a server that has such workers with --remote, or leave out --root-identity")),
        (Ok(own), _) => Ok(own),
        // The user vouches for a name where none can be computed.
        (Err(_), Some(requested)) => Ok(requested),
        (Err(error), None) => Err(error.hint(
            "name the root file system yourself with --root-identity NAME, or build in an image root with --root",
        )),
    }
}

/// Identity of this machine in the keys of caches on this machine.
pub(crate) async fn own_identity() -> String {
    let own = identity_of_this_machine().await;
    own.map_or_else(|_| UNKNOWN.to_owned(), |own| own.to_string())
}

/// Identity that a worker on this machine offers: the one that its operator gave, or the computed one. A worker without an
/// identity is of use for Actions in image roots, and for clients that do not ask for one, such as Bazel.
pub(crate) async fn offered_identity(given: Option<RootIdentity>) -> Option<RootIdentity> {
    if given.is_some() {
        return given;
    }
    let computed = identity_of_this_machine().await;
    computed
        .map_err(|error| {
            console::warn(&format!(
                "{error}  this worker runs tasks of BitBake builds in image roots only, until it has --root-identity NAME"
            ));
        })
        .ok()
}

async fn identity_of_this_machine() -> Result<RootIdentity, CommandError> {
    let parts = run_blocking(RootParts::of_this_machine).await?;
    Ok(parts.identity())
}
