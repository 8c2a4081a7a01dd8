//! Inputs of executions: directories that planning opens, and files of the build's owner.

use std::sync::Arc;

use bitzel_cas::{BlobSource, fetch_directory_tree, upload_missing};
use bitzel_proto::Digest;

use super::build_files::{is_fetch, snapshot_digest};
use super::error::BuildError;
use super::task_execution::{BuildContext, ReadyTask};
use crate::plan::private_tree::{UNDECLARED_FILES, private_tree_paths};
use crate::plan::tree::{Directories, Node};

/// File of the build's owner in an input root.
pub(super) struct InputFile {
    /// Relative to /work.
    pub(super) path: String,
    pub(super) digest: Digest,
    pub(super) source: BlobSource,
}

impl BuildContext {
    /// Forgets the uploads of metadata: the store has lost blobs, and they may be among them.
    pub(super) fn forget_uploads(&self) {
        *self.metadata_uploaded.lock() = Arc::default();
    }

    /// Uploads layers, BitBake and configuration, once in a build and only if a task is executed.
    pub(super) async fn upload_metadata(&self, task: u32) -> Result<(), BuildError> {
        let upload = || async {
            upload_missing(&*self.store, self.inputs.files.metadata())
                .await
                .map(|_| ())
                .map_err(BuildError::store(format!(
                    "uploading the metadata for {}",
                    self.index.display_name(task)
                )))
        };
        let uploaded = Arc::clone(&self.metadata_uploaded.lock());
        uploaded.get_or_try_init(upload).await.copied()
    }

    /// Fetches all directories that the assembly of the inputs may open.
    pub(super) async fn directories(&self, ready: &ReadyTask) -> Result<Directories, BuildError> {
        let name = self.index.display_name(ready.task);
        let mut directories = self.inputs.directories.clone();
        let sources = || ready.inputs.trees();
        for (task, result) in &ready.results {
            // Predecessors and foreign tasks are used by their private trees, components by what they publish.
            let (message, recipe) = (self.index.task(*task), self.index.recipe(*task));
            let left_tree =
                sources().any(|trees| trees.primary == Some(*task) || trees.replay.contains(task));
            let component = ready.inputs.components.contains(task);
            for (path, node) in &result.outputs {
                let private = left_tree && private_tree_paths(recipe).any(|own| own == path);
                if private
                    || (component && (path == UNDECLARED_FILES || message.published_paths.contains(path)))
                {
                    self.fetch(node, &name, &mut directories).await?;
                }
            }
            if sources().any(|trees| trees.replay.contains(task)) {
                for digest in result.before.values() {
                    self.fetch(&Node::Stored(*digest), &name, &mut directories)
                        .await?;
                }
            }
        }
        Ok(directories)
    }

    /// Fetches the directories below `node`.
    pub(super) async fn fetch(
        &self,
        node: &Node,
        task: &str,
        directories: &mut Directories,
    ) -> Result<(), BuildError> {
        if let Node::Stored(root) = node
            && !directories.contains_key(root)
        {
            let tree = fetch_directory_tree(&*self.store, *root, &self.directory_cache)
                .await
                .map_err(BuildError::store(format!("reading the directories of {task}")))?;
            directories.extend(tree.directories);
        }
        Ok(())
    }

    /// Data store snapshots and downloaded sources of the task's input root.
    pub(super) async fn input_files(&self, task: u32) -> Result<Vec<InputFile>, BuildError> {
        let recipe = self.index.recipe(task);
        let settings = self.index.graph().settings.clone().unwrap_or_default();
        let base = settings
            .base_snapshots
            .iter()
            .find(|base| base.multiconfig == recipe.multiconfig);
        let mut files = Vec::new();
        for (path, snapshot) in [
            ("bitzel/base.json", base),
            ("bitzel/recipe.json", recipe.snapshot.as_ref()),
        ] {
            if let Some(digest) = snapshot.and_then(snapshot_digest) {
                let source = self.inputs.files.snapshot(digest);
                files.push(InputFile {
                    path: path.to_owned(),
                    digest,
                    source,
                });
            }
        }
        if is_fetch(self.index.task(task)) {
            for source in recipe.sources.iter().filter(|source| source.present) {
                let path = format!("{}/{}", settings.download_directory, source.download_name);
                let found = self.inputs.files.download(&source.download_name).await;
                if let Some((digest, source)) = found.map_err(BuildError::io(&source.download_name))? {
                    files.push(InputFile { path, digest, source });
                }
            }
        }
        Ok(files)
    }
}
