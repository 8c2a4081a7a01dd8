//! Takes Actions from the scheduler, executes them and reports the results.
//!
//! A lease is bound to the stream on which it came: when the stream breaks, the scheduler gives the Action to somebody
//! else. So the worker then stops what it runs, and connects again. A result is only forgotten when the scheduler
//! has acknowledged it, and a worker that shuts down leaves after that, so that no finished work is lost.

use std::sync::Arc;
use std::time::Duration;

use bitzel_cas::endpoint::{self, ClientCredentials};
use bitzel_proto::worker::Hello;
use bitzel_proto::worker::worker_queue_client::WorkerQueueClient;
use tokio_util::sync::CancellationToken;

use crate::action_executor::ActionExecutor;
use crate::blob_stores::RemoteBlobStores;
use crate::config::WorkerConfig;
use crate::error::Error;
use crate::metered_action_executor::MeteredActionExecutor;
use crate::sandboxed_action_executor::SandboxedActionExecutor;

mod session;

use session::{Ended, Session};

/// First and last pause between attempts to reach the scheduler.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Runs a worker until `shutdown`. The scheduler may come and go meanwhile.
///
/// An error means that this machine cannot execute Actions at all, see [`SandboxedActionExecutor::open`].
pub async fn run(config: WorkerConfig, shutdown: CancellationToken) -> Result<(), Error> {
    let hello = Hello {
        worker_name: config.executor.worker_name.clone(),
        slots: config.slots,
        platform: Some(config.platform),
    };
    let stores = Arc::new(RemoteBlobStores::new(
        config.endpoint.clone(),
        config.credentials.clone(),
    ));
    let executor = Arc::new(SandboxedActionExecutor::open(config.executor, stores).await?);
    let executor = Arc::new(MeteredActionExecutor::new(executor));
    take_actions(
        &config.endpoint,
        &config.credentials,
        &hello,
        executor,
        config.drain_timeout,
        &shutdown,
    )
    .await;
    Ok(())
}

/// Takes Actions from the scheduler at `endpoint` for `executor` until `shutdown`. Running Actions then have
/// `drain_timeout` to end by themselves before they are cancelled.
pub async fn take_actions(
    endpoint: &str,
    credentials: &ClientCredentials,
    hello: &Hello,
    executor: Arc<dyn ActionExecutor>,
    drain_timeout: Duration,
    shutdown: &CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    while !shutdown.is_cancelled() {
        let connected = tokio::select! {
            connected = endpoint::connect_with(endpoint, credentials) => connected,
            () = shutdown.cancelled() => return,
        };
        let reason = match connected {
            Err(error) => error.to_string(),
            Ok(channel) => {
                let client = WorkerQueueClient::new(channel);
                let session = Session::new(Arc::clone(&executor), drain_timeout, shutdown.clone());
                match session.run(client, hello.clone()).await {
                    Ended::Drained => return,
                    Ended::Broken { registered, reason } => {
                        if registered {
                            pause = FIRST_PAUSE;
                        }
                        reason
                    }
                }
            }
        };
        tracing::warn!(
            endpoint,
            reason,
            ?pause,
            "no connection to the scheduler, trying again"
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests;
