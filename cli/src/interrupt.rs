//! Requests to end: Ctrl-C (SIGINT), and SIGTERM of service managers.

use tokio::signal::unix::{SignalKind, signal};

/// Exit code of an interrupted command: 128 plus the number of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

/// Waits for a request to end this process.
pub(crate) async fn interrupted() {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => terminate.recv().await,
            // Without a handler SIGTERM ends the process by itself.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate => {}
    }
}
