//! Fetch of the files of an input root before its Action is there.

use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use bitzel_cas::{BlobStore, DirectoryTree};
use metrics::counter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::InputRoots;
use super::assembly::Assembly;
use super::layer_selection::select_layers;
use super::running_fetches::RunningFetches;
use crate::error::Error;
use crate::file_cache::{FileKey, FileLease};

/// Unit of the budget, in bytes.
const BUDGET_UNIT_BYTES: u64 = 1024;
/// Bytes of one step. An Action that comes in the middle of a prefetch waits for the present step alone, and fetches the
/// rest itself.
const MAX_STEP_BYTES: u64 = 16 << 20;
/// Files of one step.
const MAX_STEP_FILES: usize = 1_000;

/// Bound of the bytes that prefetched inputs hold together.
#[derive(Debug, Clone)]
pub struct PrefetchBudget {
    units: Arc<Semaphore>,
}

impl PrefetchBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes / BUDGET_UNIT_BYTES).unwrap_or(usize::MAX);
        Self {
            units: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Takes bytes out of the budget while the result lives. `None` if there are fewer.
    fn take(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES)).ok()?;
        Arc::clone(&self.units).try_acquire_many_owned(units).ok()
    }
}

/// Inputs of an upcoming Action. They stay in the file cache while this lives.
#[derive(Debug, Default)]
pub struct PrefetchedInputs {
    files: Vec<FileLease>,
    budget: Vec<OwnedSemaphorePermit>,
}

impl InputRoots {
    /// Fetches the files of `tree` that no layer and no file of the cache has, until the budget is used up. There is no step
    /// while inputs of `others` are fetched.
    pub async fn prefetch(
        &self,
        store: &dyn BlobStore,
        tree: &Arc<DirectoryTree>,
        budget: &PrefetchBudget,
        others: &RunningFetches,
        cancellation: &CancellationToken,
    ) -> Result<PrefetchedInputs, Error> {
        let absent = {
            let (tree, layers, files) = (
                Arc::clone(tree),
                Arc::clone(&self.layers),
                Arc::clone(&self.files),
            );
            let cancellation = cancellation.clone();
            run_blocking(move || {
                let mut assembled = select_layers(&tree, |key| layers.contains(key))?;
                assembled.retain(|key| layers.contains(key));
                let (keys, _) = Assembly::skeleton(&tree, assembled).contents(&cancellation)?;
                Ok::<_, Error>(files.absent(keys))
            })
            .await?
        };
        let mut inputs = PrefetchedInputs::default();
        for step in steps(absent) {
            others.none().await;
            let bytes = bytes_of(&step);
            let Some(taken) = budget.take(bytes) else {
                break;
            };
            let files = self.files.fetch_ahead(store, step).await?;
            counter!("bitzel_worker_prefetched_bytes_total").increment(bytes);
            inputs.files.push(files);
            inputs.budget.push(taken);
        }
        Ok(inputs)
    }
}

fn bytes_of(keys: &[FileKey]) -> u64 {
    let sizes = keys.iter().map(|key| key.digest.size_bytes());
    sizes.fold(0, u64::saturating_add)
}

/// Files in steps, each of at least one file.
fn steps(keys: Vec<FileKey>) -> Vec<Vec<FileKey>> {
    let mut steps: Vec<Vec<FileKey>> = vec![];
    let mut bytes = 0_u64;
    for key in keys {
        bytes = bytes.saturating_add(key.digest.size_bytes());
        match steps.last_mut() {
            Some(step) if bytes <= MAX_STEP_BYTES && step.len() < MAX_STEP_FILES => step.push(key),
            _ => {
                bytes = key.digest.size_bytes();
                steps.push(vec![key]);
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use bitzel_proto::{Digest, DigestFunction};

    use super::*;

    #[test]
    fn a_step_has_few_bytes_or_one_file() {
        let key = |number: u8, mebibytes: u64| FileKey {
            digest: Digest::new(DigestFunction::Sha256, [number; 32], mebibytes << 20),
            mode: 0o444,
            identity: None,
        };
        let keys = [8, 8, 8, 100, 1]
            .iter()
            .zip(0..)
            .map(|(size, number)| key(number, *size));
        let sizes: Vec<_> = steps(keys.collect())
            .iter()
            .map(|step| bytes_of(step) >> 20)
            .collect();
        assert_eq!(sizes, [16, 8, 100, 1]);
    }

    #[test]
    fn a_budget_is_free_again_when_its_bytes_are() {
        let budget = PrefetchBudget::new(10 << 10);
        let taken = budget.take(9 << 10);
        assert!(taken.is_some());
        assert!(budget.take(2 << 10).is_none());
        drop(taken);
        assert!(budget.take(10 << 10).is_some());
        assert!(budget.take(u64::MAX).is_none());
    }
}
