//! State of one execution.

use std::sync::Arc;

use bitzel_cas::{BlobStore, DirectoryTree};
use bitzel_proto::reapi::{ActionResult, ExecutedActionMetadata};

use super::action_reader::CheckedAction;
use crate::action_executor::ActionRequest;
use crate::image_root::ImageRoot;
use crate::worker_directories::ActionDirectory;

/// An Action with its input tree and its directory.
pub(super) struct Execution<'run> {
    pub store: &'run dyn BlobStore,
    pub request: &'run ActionRequest,
    pub action: CheckedAction,
    pub tree: Arc<DirectoryTree>,
    pub directory: Arc<ActionDirectory>,
    /// Root file system of the command. `None` for that of this machine.
    pub image_root: Option<Arc<ImageRoot>>,
}

/// The metadata of a result.
pub(super) fn metadata(result: &mut ActionResult) -> &mut ExecutedActionMetadata {
    result.execution_metadata.get_or_insert_default()
}
