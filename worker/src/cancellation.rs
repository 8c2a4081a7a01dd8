//! Work that ends early when its Action is cancelled.

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Runs `work`, or fails with [`Error::Cancelled`] as soon as `cancellation` is cancelled.
///
/// The future is dropped then. Use this only for work that leaves nothing behind, so not for writes into the directory
/// of an Action.
pub(crate) async fn unless_cancelled<T>(
    cancellation: &CancellationToken,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::select! {
        biased;
        () = cancellation.cancelled() => Err(Error::Cancelled),
        result = work => result,
    }
}
