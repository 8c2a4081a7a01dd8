//! Takes Actions from the scheduler, executes them and reports the results.
//!
//! When the stream breaks, the worker goes on with its executions, and reports their leases on the next stream. The
//! scheduler goes on with those that it has not assigned to another worker meanwhile, also after a restart of the server,
//! and cancels the others. The worker forgets a result only when the scheduler
//! has acknowledged it, and a shutdown waits for that, so that no finished work is lost.

use std::sync::Arc;
use std::time::Duration;

use bitzel_cas::retry::reconnection_pauses;
use bitzel_proto::worker::Hello;
use tokio_util::sync::CancellationToken;

use crate::action_executor::ActionExecutor;
use crate::action_source::ActionSource;
use crate::composition::compose_worker;
use crate::config::WorkerConfig;
use crate::error::Error;
use crate::input_prefetcher::InputPrefetcher;
use crate::offered_resources::offered_resources;
use crate::server_connection::ServerConnection;

mod prefetches;
mod session;

use prefetches::Prefetches;
use session::{Session, SessionEnd};

/// Maximum number of Actions whose inputs are fetched ahead. Their bytes are bounded apart from that.
const MAX_UPCOMING_ACTIONS: u32 = 4;
/// Longest pause between two attempts to reach the scheduler.
const MAX_RECONNECTION_PAUSE: Duration = Duration::from_secs(10);

/// Runs a worker of `server` until `shutdown`. Reconnects whenever it loses the scheduler.
///
/// Fails only if this machine cannot execute Actions at all: see [`compose_executor`](crate::compose_executor).
pub async fn run(
    config: WorkerConfig,
    server: ServerConnection,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let mut hello = Hello {
        worker_name: config.executor.worker_name.clone(),
        slots: config.slots,
        platform: Some(config.platform),
        pool: config.pool,
        max_upcoming_actions: match config.executor.prefetch_bytes {
            0 => 0,
            _ => config.slots.min(MAX_UPCOMING_ACTIONS),
        },
        ..Hello::default()
    };
    let parts = compose_worker(config.executor.clone(), server.blobs).await?;
    hello.resources = Some(offered_resources(
        config.slots,
        &config.executor,
        parts.disk_bytes,
    ));
    take_actions(
        &*server.actions,
        &hello,
        parts.executor,
        parts.prefetcher,
        config.drain_timeout,
        &shutdown,
    )
    .await;
    Ok(())
}

/// Takes Actions from `source` and executes them by `executor` until `shutdown`. `prefetcher` fetches the inputs of
/// upcoming ones meanwhile. Running Actions then have `drain_timeout`
/// to end before they are cancelled, also if the scheduler is away in between: the worker reconnects to deliver them.
pub async fn take_actions(
    source: &dyn ActionSource,
    hello: &Hello,
    executor: Arc<dyn ActionExecutor>,
    prefetcher: Arc<dyn InputPrefetcher>,
    drain_timeout: Duration,
    shutdown: &CancellationToken,
) {
    let mut pauses = reconnection_pauses(MAX_RECONNECTION_PAUSE);
    let mut session = Session::new(
        executor,
        Prefetches::new(prefetcher),
        drain_timeout,
        shutdown.clone(),
    );
    loop {
        let reason = match session.run(source, hello.clone()).await {
            SessionEnd::Ended => break,
            SessionEnd::Broken { registered, reason } => {
                if registered {
                    pauses = reconnection_pauses(MAX_RECONNECTION_PAUSE);
                }
                reason
            }
        };
        let pause = pauses.next().unwrap_or(MAX_RECONNECTION_PAUSE);
        tracing::warn!(
            reason,
            ?pause,
            "no connection to the scheduler; the worker tries again after the pause"
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = session.may_end() => break,
        }
    }
    session.stop().await;
}

#[cfg(test)]
mod tests;
