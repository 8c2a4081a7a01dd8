//! Takes Actions from the scheduler, executes them and reports the results.
//!
//! A lease is bound to the stream on which it came: when the stream breaks, the scheduler gives the Action to somebody
//! else. So the worker then stops what it runs, and connects again. A result is only forgotten when the scheduler
//! has acknowledged it, and a worker that shuts down leaves after that, so that no finished work is lost.

use std::sync::Arc;
use std::time::Duration;

use bitzel_cas::retry::reconnection_pauses;
use bitzel_proto::worker::Hello;
use tokio_util::sync::CancellationToken;

use crate::action_executor::ActionExecutor;
use crate::action_source::ActionSource;
use crate::config::WorkerConfig;
use crate::error::Error;
use crate::metered_action_executor::MeteredActionExecutor;
use crate::sandboxed_action_executor::SandboxedActionExecutor;
use crate::server::Server;

mod session;

use session::{Ended, Session};

/// Longest pause between two attempts to reach the scheduler.
const MAX_RECONNECTION_PAUSE: Duration = Duration::from_secs(10);

/// Runs a worker of `server` until `shutdown`. The scheduler may come and go meanwhile.
///
/// An error means that this machine cannot execute Actions at all, see [`SandboxedActionExecutor::open`].
pub async fn run(config: WorkerConfig, server: Server, shutdown: CancellationToken) -> Result<(), Error> {
    let hello = Hello {
        worker_name: config.executor.worker_name.clone(),
        slots: config.slots,
        platform: Some(config.platform),
    };
    let executor = Arc::new(SandboxedActionExecutor::open(config.executor, server.blobs).await?);
    let executor = Arc::new(MeteredActionExecutor::new(executor));
    take_actions(
        &*server.actions,
        &hello,
        executor,
        config.drain_timeout,
        &shutdown,
    )
    .await;
    Ok(())
}

/// Takes Actions from `source` for `executor` until `shutdown`. Running Actions then have `drain_timeout` to end by
/// themselves before they are cancelled.
pub async fn take_actions(
    source: &dyn ActionSource,
    hello: &Hello,
    executor: Arc<dyn ActionExecutor>,
    drain_timeout: Duration,
    shutdown: &CancellationToken,
) {
    let mut pauses = reconnection_pauses(MAX_RECONNECTION_PAUSE);
    while !shutdown.is_cancelled() {
        let session = Session::new(Arc::clone(&executor), drain_timeout, shutdown.clone());
        let reason = match session.run(source, hello.clone()).await {
            Ended::Drained => return,
            Ended::Broken { registered, reason } => {
                if registered {
                    pauses = reconnection_pauses(MAX_RECONNECTION_PAUSE);
                }
                reason
            }
        };
        let pause = pauses.next().unwrap_or(MAX_RECONNECTION_PAUSE);
        tracing::warn!(reason, ?pause, "no connection to the scheduler, trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests;
