//! Fetch of the inputs of upcoming Actions.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::SandboxedActionExecutor;
use crate::error::Error;
use crate::input_prefetcher::{InputPrefetcher, UpcomingAction};
use crate::input_root::PrefetchedInputs;

#[async_trait]
impl InputPrefetcher for SandboxedActionExecutor {
    /// One Action after the other, the most likely one first. The image root is not fetched: it is there after the first
    /// Action that names it.
    async fn prefetch(&self, upcoming: &UpcomingAction) -> Result<PrefetchedInputs, Error> {
        let _turn = self.prefetch_turn.lock().await;
        if self.directories.is_low_on_space().await {
            return Ok(PrefetchedInputs::default());
        }
        let over = CancellationToken::new();
        let _guard = over.clone().drop_guard();
        self.running_fetches.none().await;
        let store = self.stores.store(&upcoming.instance).await?;
        let action = self.reader.read(&*store, upcoming.action).await?;
        let tree = self.reader.fetch_input_tree(&*store, &action, &over).await?;
        self.input_roots
            .prefetch(
                &*store,
                &tree,
                &self.prefetch_budget,
                &self.running_fetches,
                &over,
            )
            .await
    }
}
