//! Check of an Action whose platform property `undeclared-writes` is `error`.

use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use tokio_util::sync::CancellationToken;

use super::execution::Execution;
use crate::error::Error;
use crate::outputs::{UndeclaredWrites, find_undeclared_writes};

/// Fails with [`Error::UndeclaredWrites`] if the command wrote outside its declared outputs.
pub(super) async fn refuse_undeclared_writes(
    execution: &Execution<'_>,
    max_entries: u64,
    cancellation: &CancellationToken,
) -> Result<(), Error> {
    let (tree, directory) = (Arc::clone(&execution.tree), Arc::clone(&execution.directory));
    let outputs = execution.action.declaration.component_paths();
    let cancellation = cancellation.clone();
    let find = move || {
        let upper = directory.path("upper");
        find_undeclared_writes(&tree, upper, &outputs, max_entries, &cancellation)
    };
    let UndeclaredWrites { paths, count } = run_blocking(find).await?;
    if count == 0 {
        Ok(())
    } else {
        Err(Error::UndeclaredWrites { paths, count })
    }
}
