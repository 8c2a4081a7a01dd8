//! File work off the runtime's threads, and work that may be given up.

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// `work`, or [`Error::Cancelled`] as soon as `cancellation` is. The future is dropped then: only for work that
/// leaves nothing behind, so not around anything that writes into an Action's directory.
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

/// Runs `work` where it may block.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Error::Cancelled),
        },
    }
}
