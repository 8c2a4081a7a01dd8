//! Blocking work outside the threads of the async runtime.

/// Runs `work` on a thread for blocking work. A panic in it continues in the caller.
pub async fn run_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the shutdown of the runtime cancels blocking work, and then this future is never polled again.
            Err(_) => std::future::pending().await,
        },
    }
}
