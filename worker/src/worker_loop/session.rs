//! Session of a worker on one stream to the scheduler.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bitzel_proto::missing_blobs::to_rpc_status;
use bitzel_proto::reapi::{ExecuteResponse, execution_stage};
use bitzel_proto::timestamp::from_unix_nanos;
use bitzel_proto::worker::{
    Assign, Completed, Drain, Hello, SchedulerMessage, StageChanged, WorkerMessage, scheduler_message,
    worker_message,
};
use bitzel_proto::{Digest, DigestFunction, InstanceName};
use futures::StreamExt;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use uuid::Uuid;

use super::MAX_UPCOMING_ACTIONS;
use super::prefetches::Prefetches;
use crate::action_executor::{ActionExecutor, ActionRequest};
use crate::action_source::{ActionSource, SchedulerMessages};
use crate::input_prefetcher::UpcomingAction;
use crate::result_size::{bounded_response, refused_response};

/// Limit of the messages that wait for the network.
const MAX_OUTBOUND_MESSAGES: usize = 64;
/// Time that the scheduler has to acknowledge the last results after the drain time.
const MAX_ACKNOWLEDGEMENT_WAIT: Duration = Duration::from_secs(30);

/// The reason why a session ended.
pub(super) enum SessionEnd {
    /// The worker shut down: the scheduler has all results, or could not be reached in time.
    Ended,
    /// The stream broke. Executions go on.
    Broken {
        /// True if the scheduler had accepted the worker.
        registered: bool,
        /// The reason, as text for a log.
        reason: String,
    },
}

/// Work of a worker, on one stream after the other. Executions outlive a stream: when the worker has another one, it
/// reports their leases, and the scheduler goes on with them or cancels them.
pub(super) struct Session {
    executor: Arc<dyn ActionExecutor>,
    prefetches: Prefetches,
    drain_timeout: Duration,
    shutdown: CancellationToken,
    /// Random bytes that tell this worker from others of its name: it alone comes back with its leases.
    instance_secret: Vec<u8>,
    /// Leases of running executions.
    running: HashMap<String, CancellationToken>,
    executions: JoinSet<(String, ExecuteResponse)>,
    /// Results that the scheduler has not acknowledged, by lease.
    unacknowledged: HashMap<String, ExecuteResponse>,
    /// Time at which running executions are cancelled. `None` before the shutdown.
    drained_by: Option<Instant>,
}

type Outbound = mpsc::Sender<WorkerMessage>;

async fn send(outbound: &Outbound, message: worker_message::Message) -> Result<(), String> {
    let message = Some(message);
    outbound
        .send(WorkerMessage { message })
        .await
        .map_err(|_| "the scheduler closed the stream".to_owned())
}

impl Session {
    pub(super) fn new(
        executor: Arc<dyn ActionExecutor>,
        prefetches: Prefetches,
        drain_timeout: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            executor,
            prefetches,
            drain_timeout,
            shutdown,
            instance_secret: [Uuid::new_v4().into_bytes(), Uuid::new_v4().into_bytes()].concat(),
            running: HashMap::new(),
            executions: JoinSet::new(),
            unacknowledged: HashMap::new(),
            drained_by: None,
        }
    }

    /// Registers and works until the stream ends or the worker is drained.
    pub(super) async fn run(&mut self, source: &dyn ActionSource, mut hello: Hello) -> SessionEnd {
        hello.leases = self
            .running
            .keys()
            .chain(self.unacknowledged.keys())
            .cloned()
            .collect();
        // The scheduler names them anew.
        self.prefetches.replace(vec![]);
        hello.instance_secret.clone_from(&self.instance_secret);
        hello.draining = self.shutdown.is_cancelled();
        let (outbound, messages) = mpsc::channel(MAX_OUTBOUND_MESSAGES);
        let opened = async {
            send(&outbound, worker_message::Message::Hello(hello)).await?;
            source.connect(messages).await
        };
        let inbound = tokio::select! {
            opened = opened => match opened {
                Ok(inbound) => inbound,
                Err(reason) => return SessionEnd::Broken { registered: false, reason },
            },
            () = self.may_end() => return SessionEnd::Ended,
        };
        let result = self.serve(&outbound, inbound).await;
        match result {
            Ok(()) => SessionEnd::Ended,
            Err(reason) => SessionEnd::Broken {
                registered: true,
                reason,
            },
        }
    }

    /// Waits, without a stream, until the worker may end: at its shutdown it has no work, or the drain time is over.
    pub(super) async fn may_end(&mut self) {
        self.shutdown.cancelled().await;
        if !self.is_idle() {
            let drained_by = self.drained_by();
            tokio::time::sleep_until(drained_by).await;
        }
    }

    /// End of the drain time, which begins with the first call.
    fn drained_by(&mut self) -> Instant {
        *self
            .drained_by
            .get_or_insert_with(|| Instant::now() + self.drain_timeout)
    }

    fn is_idle(&self) -> bool {
        self.running.is_empty() && self.unacknowledged.is_empty()
    }

    /// Cancels all executions, whose results are void, and waits until their processes and files are removed.
    pub(super) async fn stop(&mut self) {
        for cancellation in self.running.values() {
            cancellation.cancel();
        }
        while self.executions.join_next().await.is_some() {}
        self.running.clear();
        self.unacknowledged.clear();
    }

    async fn serve(&mut self, outbound: &Outbound, mut inbound: SchedulerMessages) -> Result<(), String> {
        for (lease, response) in &self.unacknowledged {
            send(outbound, completed(lease, response)).await?;
        }
        let shutdown = self.shutdown.clone();
        let mut draining = false;
        let drained_by = tokio::time::sleep(Duration::MAX);
        let acknowledged_by = tokio::time::sleep(Duration::MAX);
        tokio::pin!(drained_by, acknowledged_by);
        // The drain time is over, and then nothing runs any more.
        let (mut is_overdue, mut has_stopped) = (false, false);
        while !(draining && self.is_idle()) {
            if is_overdue && self.running.is_empty() && !has_stopped {
                has_stopped = true;
                acknowledged_by
                    .as_mut()
                    .reset(Instant::now() + MAX_ACKNOWLEDGEMENT_WAIT);
            }
            tokio::select! {
                message = inbound.next() => self.handle(outbound, message)?,
                Some(execution) = self.executions.join_next() => self.complete(outbound, execution).await?,
                () = shutdown.cancelled(), if !draining => {
                    draining = true;
                    self.prefetches.replace(vec![]);
                    drained_by.as_mut().reset(self.drained_by());
                    send(outbound, worker_message::Message::Drain(Drain {})).await?;
                }
                () = &mut acknowledged_by, if has_stopped => {
                    let results = self.unacknowledged.len();
                    tracing::warn!(results, "the scheduler does not acknowledge results; the worker ends without that");
                    return Ok(());
                }
                () = &mut drained_by, if draining && !(is_overdue && self.running.values().all(CancellationToken::is_cancelled)) => {
                    is_overdue = true;
                    for cancellation in self.running.values() {
                        cancellation.cancel();
                    }
                }
            }
        }
        Ok(())
    }

    fn handle(
        &mut self,
        outbound: &Outbound,
        message: Option<Result<SchedulerMessage, Status>>,
    ) -> Result<(), String> {
        let message = message.ok_or("the scheduler closed the stream")?;
        let message = message.map_err(|status| {
            if status.code() == Code::OutOfRange {
                self.refuse_largest_result();
            }
            status.message().to_owned()
        })?;
        match message.message {
            Some(scheduler_message::Message::Assign(assign)) => self.start(outbound, assign),
            Some(scheduler_message::Message::Cancel(cancel)) => {
                if let Some(cancellation) = self.running.get(&cancel.lease) {
                    cancellation.cancel();
                }
            }
            Some(scheduler_message::Message::Acknowledged(acknowledged)) => {
                self.unacknowledged.remove(&acknowledged.lease);
            }
            Some(scheduler_message::Message::Drain(_)) => {
                tracing::info!("told to finish the running Actions and to end");
                self.shutdown.cancel();
            }
            Some(scheduler_message::Message::Upcoming(upcoming)) => {
                let upcoming = upcoming.actions.iter().take(MAX_UPCOMING_ACTIONS as usize);
                self.prefetches
                    .replace(upcoming.filter_map(read_upcoming).collect());
            }
            // A newer scheduler may send further kinds.
            None => {}
        }
        Ok(())
    }

    /// Puts an error in place of the largest result that waits for its acknowledgement: the scheduler refused a message for
    /// its size, and would break each stream on which that comes again.
    fn refuse_largest_result(&mut self) {
        let results = self.unacknowledged.iter_mut();
        if let Some((lease, response)) = results.max_by_key(|(_, response)| response.encoded_len()) {
            tracing::warn!(
                lease,
                "the scheduler refuses a result for its size; the Action fails"
            );
            *response = refused_response(response);
        }
    }

    fn start(&mut self, outbound: &Outbound, assign: Assign) {
        let cancellation = CancellationToken::new();
        let lease = assign.lease.clone();
        self.running.insert(lease.clone(), cancellation.clone());
        let (executor, outbound) = (Arc::clone(&self.executor), outbound.clone());
        let request = read_request(&assign);
        let prefetch = request.as_ref().ok().and_then(|request| {
            let (instance, action) = (request.instance.clone(), request.action);
            self.prefetches.take(&UpcomingAction { instance, action })
        });
        self.executions.spawn(async move {
            let (stages, mut changes) = mpsc::unbounded_channel();
            let execute = async {
                match request {
                    Ok(request) => {
                        let stages = Some(stages);
                        executor
                            .execute(ActionRequest {
                                stages,
                                cancellation,
                                ..request
                            })
                            .await
                    }
                    Err(status) => ExecuteResponse {
                        message: status.message().to_owned(),
                        status: Some(to_rpc_status(&status)),
                        ..ExecuteResponse::default()
                    },
                }
            };
            let report = async {
                // The rest of the prefetch goes on, and what it has fetched stays, until the execution holds all inputs.
                let mut prefetch = prefetch;
                while let Some(stage) = changes.recv().await {
                    if stage == execution_stage::Value::Executing {
                        drop(prefetch.take());
                    }
                    let change = StageChanged {
                        lease: assign.lease.clone(),
                        stage: stage.into(),
                    };
                    // The session notices a broken stream.
                    let _ = send(&outbound, worker_message::Message::StageChanged(change)).await;
                }
            };
            let (response, ()) = tokio::join!(execute, report);
            (lease, response)
        });
    }

    async fn complete(
        &mut self,
        outbound: &Outbound,
        execution: Result<(String, ExecuteResponse), tokio::task::JoinError>,
    ) -> Result<(), String> {
        let (lease, response) = match execution {
            Ok((lease, response)) => (lease, bounded_response(response)),
            // The lease is not known any more. Without the stream the scheduler assigns all leases to other workers.
            Err(error) => {
                self.stop().await;
                return Err(format!("an execution panicked: {error}"));
            }
        };
        self.running.remove(&lease);
        let message = completed(&lease, &response);
        self.unacknowledged.insert(lease, response);
        send(outbound, message).await
    }
}

fn completed(lease: &str, response: &ExecuteResponse) -> worker_message::Message {
    worker_message::Message::Completed(Completed {
        lease: lease.to_owned(),
        response: Some(response.clone()),
    })
}

/// Reads an upcoming Action. A malformed one is left out: it fails when it is assigned.
fn read_upcoming(upcoming: &bitzel_proto::worker::UpcomingAction) -> Option<UpcomingAction> {
    let function = DigestFunction::from_wire(upcoming.digest_function)?;
    Some(UpcomingAction {
        instance: InstanceName::new(upcoming.instance_name.clone()).ok()?,
        action: Digest::from_wire_field(function, upcoming.action_digest.as_ref()).ok()?,
    })
}

/// Reads the request of an assignment.
fn read_request(assign: &Assign) -> Result<ActionRequest, Status> {
    let invalid = |error: &dyn std::fmt::Display| {
        Status::invalid_argument(format!("the assignment is malformed: {error}"))
    };
    let function = DigestFunction::from_wire(assign.digest_function)
        .ok_or_else(|| invalid(&format!("digest function {}", assign.digest_function)))?;
    let action =
        Digest::from_wire_field(function, assign.action_digest.as_ref()).map_err(|error| invalid(&error))?;
    let instance = InstanceName::new(assign.instance_name.clone()).map_err(|error| invalid(&error))?;
    Ok(ActionRequest {
        instance,
        action,
        queued: Some(from_unix_nanos(assign.queued_unix_nanos)),
        stages: None,
        cancellation: CancellationToken::new(),
    })
}
