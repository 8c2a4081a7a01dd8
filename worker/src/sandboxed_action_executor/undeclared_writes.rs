//! Check of an Action whose platform property `undeclared-writes` is `error`.

use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use tokio_util::sync::CancellationToken;

use super::execution::Execution;
use crate::error::Error;
use crate::outputs::find_undeclared_writes;

/// Fails with [`Error::UndeclaredWrites`] if the command wrote outside its declared outputs.
pub(super) async fn refuse_undeclared_writes(
    execution: &Execution<'_>,
    cancellation: &CancellationToken,
) -> Result<(), Error> {
    let (tree, directory) = (Arc::clone(&execution.tree), Arc::clone(&execution.directory));
    let outputs = execution.action.declaration.component_paths();
    let cancellation = cancellation.clone();
    let find = move || find_undeclared_writes(&tree, directory.path("upper"), &outputs, &cancellation);
    let paths = run_blocking(find).await?;
    if paths.is_empty() {
        Ok(())
    } else {
        Err(Error::UndeclaredWrites { paths })
    }
}
