//! Reads Actions with their Commands and input trees, and checks them.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set Command.platform"
)]

use std::sync::Arc;
use std::time::Duration;

use bitzel_cas::blob_store::read_whole;
use bitzel_cas::blocking::run_blocking;
use bitzel_cas::{BlobStore, DirectoryCache, DirectoryTree, fetch_directory_tree};
use bitzel_launcher::MOUNTED_IN_INPUT_ROOT;
use bitzel_proto::Digest;
use bitzel_proto::message_memory::decode_message;
use bitzel_proto::platform_property::{INPUT_ROOT, ROOT_IMAGE, RootFileSystem};
use bitzel_proto::reapi::{Action, Command};
use prost::{Message, Name};
use tokio_util::sync::CancellationToken;

use super::execution_timeout::ExecutionTimeouts;
use super::sandbox_properties::SandboxProperties;
use crate::bounds::{Bound, BoundReached, Bounds};
use crate::cancellation::unless_cancelled;
use crate::error::Error;
use crate::input_tree::{child_digest, directory_of, tree_totals, weighed_entries};
use crate::outputs::OutputDeclaration;
use crate::relative_path::resolve;

/// Limit of an Action or Command message. Both are small.
const MAX_MESSAGE_BYTES: u64 = 16 << 20;

/// Limit of the Directory messages that are kept in memory, in bytes of their encoding.
const DIRECTORY_CACHE_BYTES: u64 = 64 << 20;

/// Number of Directories of a tree whose entries are counted without another thread, which takes longer than the count.
const MAX_DIRECTORIES_COUNTED_AT_ONCE: usize = 256;

/// An Action that was read and checked.
pub(super) struct CheckedAction {
    pub command: Command,
    /// Components of the directory that the command starts in, relative to the input root.
    pub working_directory: Vec<String>,
    pub declaration: OutputDeclaration,
    pub input_root: Digest,
    pub timeout: Duration,
    pub properties: SandboxProperties,
}

/// Reader of Actions.
pub(super) struct ActionReader {
    timeouts: ExecutionTimeouts,
    max_input_entries: u64,
    max_input_bytes: u64,
    directory_cache: DirectoryCache,
}

impl ActionReader {
    pub(super) fn new(timeouts: ExecutionTimeouts, bounds: &Bounds) -> Self {
        Self {
            timeouts,
            max_input_entries: bounds.input_entries,
            max_input_bytes: bounds.input_bytes,
            directory_cache: DirectoryCache::new(DIRECTORY_CACHE_BYTES),
        }
    }

    /// Reads an Action and its Command.
    pub(super) async fn read(
        &self,
        store: &dyn BlobStore,
        action_digest: Digest,
    ) -> Result<CheckedAction, Error> {
        let action: Action = read_message(store, action_digest, "Action").await?;
        let timeout = self.timeouts.timeout_of(&action)?;
        let digest_of = |field, digest| {
            Digest::from_wire_field(action_digest.function(), digest).map_err(Error::digest(field))
        };
        let command_digest = digest_of("Action.command_digest", action.command_digest.as_ref())?;
        let input_root = digest_of("Action.input_root_digest", action.input_root_digest.as_ref())?;
        let command: Command = read_message(store, command_digest, "Command").await?;
        if command.arguments.is_empty() {
            return Err(Error::InvalidAction("the Command has no arguments".into()));
        }
        check_environment(&command)?;
        let platform = action.platform.as_ref().or(command.platform.as_ref());
        let working_directory = resolve(&[], "working_directory", &command.working_directory)?;
        Ok(CheckedAction {
            declaration: OutputDeclaration::of_command(&command, &working_directory)?,
            properties: SandboxProperties::of_platform(platform, action_digest.function())?,
            command,
            working_directory,
            input_root,
            timeout,
        })
    }

    /// Fetches the tree of the input root, counts its entries and bytes and looks for the working directory in it.
    pub(super) async fn fetch_input_tree(
        &self,
        store: &dyn BlobStore,
        action: &CheckedAction,
        cancellation: &CancellationToken,
    ) -> Result<Arc<DirectoryTree>, Error> {
        let tree = self.fetch_tree(store, action.input_root, cancellation).await?;
        check_working_directory(&tree, &action.working_directory)?;
        if action.properties.root == RootFileSystem::InputRoot {
            check_mount_points(&tree)?;
        }
        Ok(tree)
    }

    /// Fetches a tree and counts its entries.
    pub(super) async fn fetch_tree(
        &self,
        store: &dyn BlobStore,
        root: Digest,
        cancellation: &CancellationToken,
    ) -> Result<Arc<DirectoryTree>, Error> {
        let fetch = async {
            let tree = fetch_directory_tree(store, root, &self.directory_cache).await;
            tree.map_err(Error::input_root)
        };
        let tree = Arc::new(unless_cancelled(cancellation, fetch).await?);
        let figures = |tree: &DirectoryTree| {
            let totals = tree_totals(tree)?;
            Ok::<_, Error>((weighed_entries(tree, totals), totals.bytes))
        };
        let (entries, bytes) = if tree.directories.len() <= MAX_DIRECTORIES_COUNTED_AT_ONCE {
            figures(&tree)?
        } else {
            let tree = Arc::clone(&tree);
            run_blocking(move || figures(&tree)).await?
        };
        for (bound, used, allowed) in [
            (Bound::InputEntries, entries, self.max_input_entries),
            (Bound::InputBytes, bytes, self.max_input_bytes),
        ] {
            if used > allowed {
                let used = Some(used);
                return Err(Error::BoundReached(BoundReached { bound, used, allowed }));
            }
        }
        Ok(tree)
    }
}

async fn read_message<M: Message + Name + Default>(
    store: &dyn BlobStore,
    digest: Digest,
    name: &str,
) -> Result<M, Error> {
    if digest.size_bytes() > MAX_MESSAGE_BYTES {
        return Err(Error::InvalidAction(format!(
            "{name} {digest} is larger than {MAX_MESSAGE_BYTES} bytes"
        )));
    }
    let bytes = read_whole(store, digest).await?;
    decode_message::<M>(&bytes)
        .map_err(|source| Error::InvalidAction(format!("{name} {digest} cannot be decoded: {source}")))
}

/// Refuses a working directory outside the input tree, as the specification requires.
fn check_working_directory(tree: &DirectoryTree, path: &[String]) -> Result<(), Error> {
    let mut digest = tree.root;
    for name in path {
        let mut children = directory_of(tree, digest)?.directories.iter();
        let child = children.find(|node| node.name == *name).ok_or_else(|| {
            let path = path.join("/");
            Error::InvalidAction(format!("the working directory {path:?} is not in the input root"))
        })?;
        digest = child_digest(digest.function(), child)?;
    }
    Ok(())
}

/// Refuses an input root that cannot be a root file system, because the sandbox could mount nothing in it.
fn check_mount_points(tree: &DirectoryTree) -> Result<(), Error> {
    let root = directory_of(tree, tree.root)?;
    for name in MOUNTED_IN_INPUT_ROOT {
        if !root.directories.iter().any(|directory| directory.name == name) {
            return Err(Error::InvalidAction(format!(
                "the input root has no directory {name:?}; with the platform property {ROOT_IMAGE}={INPUT_ROOT} it is the \
                 root file system of the command, so add the empty directories {}",
                MOUNTED_IN_INPUT_ROOT.join(", ")
            )));
        }
    }
    Ok(())
}

/// Refuses environment variables that the system cannot pass on as they are: with `=` in its name, one would be another
/// one with another value.
fn check_environment(command: &Command) -> Result<(), Error> {
    for variable in &command.environment_variables {
        let problem = if variable.name.is_empty() {
            "has no name"
        } else if variable.name.contains(['=', '\0']) {
            "has `=` or a NUL byte in its name"
        } else if variable.value.contains('\0') {
            "has a NUL byte in its value"
        } else {
            continue;
        };
        let name = &variable.name;
        return Err(Error::InvalidAction(format!(
            "the environment variable {name:?} {problem}"
        )));
    }
    Ok(())
}
