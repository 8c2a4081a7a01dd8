//! Restore of results from archives of a shared state cache.

use std::collections::BTreeSet;

use super::error::BuildError;
use super::execution_inputs::InputFile;
use super::shared_state::{ArchiveQuery, ArchiveSearch, SharedState};
use super::task_execution::BuildContext;

/// Answer to the search for the archives of all tasks that could be restored, by the signatures of the export.
#[derive(Debug, Default)]
pub(super) struct KnownArchives {
    /// Tasks that have an archive.
    tasks: BTreeSet<u32>,
    /// The counts as BitBake prints them.
    pub(super) summary: String,
}

impl BuildContext {
    /// True if a shared state cache has an archive of the task with this signature.
    ///
    /// The first call asks for all tasks of the graph at once, as BitBake does: a mirror answers hundreds of questions on
    /// one connection faster than one by one.
    ///
    /// A cache that cannot be asked is one without archives.
    pub(super) async fn has_archive(&self, task: u32, taskhash: &str) -> bool {
        let Some(shared_state) = &self.inputs.shared_state else {
            return false;
        };
        let message = self.index.task(task);
        if !message.setscene {
            return false;
        }
        if taskhash == message.taskhash {
            let known = self
                .archives
                .get_or_init(|| self.search_all(&**shared_state))
                .await;
            return known.tasks.contains(&task);
        }
        let answer = shared_state
            .search(vec![self.archive_query(task, taskhash)])
            .await;
        answer.is_ok_and(|answer| answer.found == [true])
    }

    async fn search_all(&self, shared_state: &dyn SharedState) -> KnownArchives {
        let tasks: Vec<u32> = self
            .index
            .tasks()
            .filter(|task| {
                let message = self.index.task(*task);
                message.setscene && !message.noexec && !message.nostamp
            })
            .collect();
        let queries = tasks
            .iter()
            .map(|task| self.archive_query(*task, &self.index.task(*task).unihash))
            .collect();
        let answer = shared_state
            .search(queries)
            .await
            .unwrap_or_else(|error| ArchiveSearch {
                found: Vec::new(),
                summary: format!("shared state is not used: {error}"),
            });
        let found = tasks.into_iter().zip(answer.found);
        KnownArchives {
            tasks: found.filter(|(_, found)| *found).map(|(task, _)| task).collect(),
            summary: answer.summary,
        }
    }

    /// Files of the archive for the input root of the setscene task.
    pub(super) async fn archive_files(
        &self,
        task: u32,
        taskhash: &str,
    ) -> Result<Vec<InputFile>, BuildError> {
        let name = || self.index.display_name(task);
        let files = match &self.inputs.shared_state {
            Some(shared_state) => shared_state
                .fetch(self.archive_query(task, taskhash))
                .await
                .map_err(|source| BuildError::SharedState { task: name(), source })?,
            None => None,
        };
        let files = files.ok_or_else(|| BuildError::NoArchive { task: name() })?;
        Ok(files
            .into_iter()
            .map(|file| InputFile {
                path: file.path,
                digest: file.digest,
                source: file.source,
            })
            .collect())
    }

    fn archive_query(&self, task: u32, unihash: &str) -> ArchiveQuery {
        let (recipe, message) = (self.index.recipe(task), self.index.task(task));
        ArchiveQuery {
            recipe: recipe.key.clone(),
            multiconfig: recipe.multiconfig.clone(),
            task: message.name.clone(),
            unihash: unihash.to_owned(),
            hash_filename: recipe.hash_filename.clone(),
            snapshot: recipe
                .snapshot
                .as_ref()
                .map(|snapshot| snapshot.sha256.clone())
                .unwrap_or_default(),
        }
    }
}
