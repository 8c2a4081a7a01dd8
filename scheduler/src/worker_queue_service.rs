//! `WorkerQueue` service: one stream for each worker.

mod hello;

use std::sync::Arc;

use bitzel_access::{Caller, Identity, Permission, authorize};
use bitzel_cas::ActionCache;
use bitzel_proto::InstanceName;
use bitzel_proto::reapi::{ExecuteResponse, execution_stage};
use bitzel_proto::worker::worker_queue_server::{WorkerQueue, WorkerQueueServer};
use bitzel_proto::worker::{
    Acknowledged, Hello, SchedulerMessage, WorkerMessage, scheduler_message, worker_message,
};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

use hello::read_hello;

use super::action_metrics;
use super::dispatcher::{Connection, Dispatcher, OutgoingMessage, WorkerSender};
use super::error::ExecutionError;
use super::journal::RecordNumber;
use super::operation_queue::{LeaseId, OperationId, Route, WorkerId};
use super::result_recorder::ResultRecorder;
use super::worker_identity::WorkerIdentity;

/// Maximum number of slots of a worker; limits the messages of a stream in flight.
const MAX_SLOTS: u32 = 1024;
/// Capacity of a worker's channel, in messages: Assign, Cancel and Acknowledged of every slot, and acknowledgements of
/// leases that ended long ago.
const OUTBOUND_CAPACITY: usize = 4 * MAX_SLOTS as usize;
/// Maximum number of results of one worker that wait for the action cache. With more, the worker's stream is not read.
const MAX_CONCURRENT_RECORDINGS: usize = 64;
/// Maximum size of a worker's message in bytes: results with inlined output may be larger than tonic's default of 4 MiB.
pub(super) const MAX_MESSAGE_BYTES: usize = 64 << 20;

/// `WorkerQueue` service: assigns Actions to workers and takes their results.
#[derive(Clone)]
pub struct WorkerQueueService {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) action_cache: Arc<dyn ActionCache>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

impl WorkerQueueService {
    /// Creates the gRPC service for a server.
    pub fn into_server(self) -> WorkerQueueServer<Self> {
        WorkerQueueServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Connects a worker of this process: takes its messages and returns those for it. Other workers connect through the gRPC
    /// service.
    pub fn connect(
        &self,
        inbound: impl Stream<Item = Result<WorkerMessage, Status>> + Send + Unpin + 'static,
    ) -> BoxStream<'static, Result<SchedulerMessage, Status>> {
        self.open(inbound, Route::SameProcess, &Extensions::new())
    }

    /// Takes the messages of a worker and returns those for it. `extensions` of its request have its credentials.
    pub(super) fn open(
        &self,
        inbound: impl Stream<Item = Result<WorkerMessage, Status>> + Send + Unpin + 'static,
        route: Route,
        extensions: &Extensions,
    ) -> BoxStream<'static, Result<SchedulerMessage, Status>> {
        let (outbound, receiver) = mpsc::channel(OUTBOUND_CAPACITY);
        let caller = extensions.get::<Caller>();
        let caller = caller.map_or_else(
            || Arc::new(Identity::anonymous()),
            |caller| caller.identity.clone(),
        );
        self.tasks
            .spawn(self.clone().serve(inbound, outbound, route, caller));
        let messages = (ReceiverStream::new(receiver), self.dispatcher.durability());
        stream::unfold(messages, |(mut messages, mut durable)| async move {
            let (record, message) = messages.next().await?;
            durable.wait(record).await;
            Some((message, (messages, durable)))
        })
        .boxed()
    }

    async fn serve(
        self,
        mut inbound: impl Stream<Item = Result<WorkerMessage, Status>> + Send + Unpin,
        outbound: WorkerSender,
        route: Route,
        caller: Arc<Identity>,
    ) {
        let hello = tokio::select! {
            () = self.shutdown.cancelled() => Err(ExecutionError::ShuttingDown),
            hello = read_hello(&mut inbound) => hello,
        };
        let session = hello.and_then(|hello| self.register(&hello, outbound.clone(), route, &caller));
        let session = match session {
            Ok(session) => session,
            Err(error) => {
                // The worker may be gone, and then nobody reads this.
                let _ = outbound.send((RecordNumber::default(), Err(error.into()))).await;
                return;
            }
        };
        // The session has a weak one: the stream ends when the dispatcher has closed it.
        drop(outbound);
        let ended = session.read(inbound).await;
        tracing::info!(worker = &**session.identity.name(), ended, "worker disconnected");
    }

    fn register(
        self,
        hello: &Hello,
        outbound: WorkerSender,
        route: Route,
        caller: &Identity,
    ) -> Result<WorkerSession, ExecutionError> {
        let closed = self.shutdown.child_token();
        let weak = outbound.downgrade();
        let identity = WorkerIdentity::new(hello, caller);
        let connection = Connection {
            identity: identity.clone(),
            outbound,
            closed: closed.clone(),
        };
        let worker = match self.dispatcher.register_worker(hello, connection, route) {
            Ok(worker) => worker,
            Err(error) => {
                tracing::warn!(worker = &**identity.name(), %error, "a worker is refused");
                return Err(error);
            }
        };
        tracing::info!(
            worker = &**identity.name(),
            slots = hello.slots,
            "worker connected"
        );
        Ok(WorkerSession {
            worker,
            identity,
            outbound: weak,
            closed,
            recordings: Arc::new(Semaphore::new(MAX_CONCURRENT_RECORDINGS)),
            service: self,
        })
    }
}

#[tonic::async_trait]
impl WorkerQueue for WorkerQueueService {
    type WorkStream = BoxStream<'static, Result<SchedulerMessage, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        // A worker serves all instances, so the permission is that on the instance with the empty name.
        let (_, extensions, inbound) = request.into_parts();
        authorize(&extensions, Permission::Worker, &InstanceName::default())?;
        // Does not wait for Hello: the worker may wait for the response's headers before it sends that.
        Ok(Response::new(self.open(inbound, Route::Direct, &extensions)))
    }
}

/// Stream of a registered worker. Dropping it gives its leases of Actions to other workers, unless it comes back in time.
struct WorkerSession {
    service: WorkerQueueService,
    worker: WorkerId,
    identity: WorkerIdentity,
    /// Weak, so that the stream to the worker ends when the dispatcher has closed it and the last acknowledgement is sent.
    outbound: mpsc::WeakSender<OutgoingMessage>,
    closed: CancellationToken,
    recordings: Arc<Semaphore>,
}

impl Drop for WorkerSession {
    fn drop(&mut self) {
        // After a restart the worker comes back with its leases, so a shutdown does not take them away.
        if self.service.shutdown.is_cancelled() {
            self.service.dispatcher.close_worker(self.worker);
        } else {
            self.service.dispatcher.disconnect_worker(self.worker);
        }
    }
}

impl WorkerSession {
    /// Reads until the stream ends, and returns the reason.
    async fn read(&self, mut inbound: impl Stream<Item = Result<WorkerMessage, Status>> + Unpin) -> String {
        loop {
            let message = tokio::select! {
                biased;
                () = self.closed.cancelled() => return "closed by the scheduler".to_owned(),
                message = inbound.next() => message,
            };
            match message {
                Some(Ok(WorkerMessage {
                    message: Some(message),
                })) => self.handle(message).await,
                Some(Ok(WorkerMessage { message: None })) => {}
                None => return "closed by the worker".to_owned(),
                Some(Err(status)) => {
                    if status.code() == Code::OutOfRange {
                        self.refuse_message().await;
                    }
                    return format!("broken: {}", status.message());
                }
            }
        }
    }

    /// Tells the worker that a message of it is too large, so that it does not send that again on its next stream.
    async fn refuse_message(&self) {
        if let Some(outbound) = self.outbound.upgrade() {
            let status = Status::out_of_range(format!(
                "a message of the worker is larger than {MAX_MESSAGE_BYTES} bytes"
            ));
            // A worker that is gone needs no answer.
            let _ = outbound.send((RecordNumber::default(), Err(status))).await;
        }
    }

    /// Applies a message of the worker.
    async fn handle(&self, message: worker_message::Message) {
        let dispatcher = &self.service.dispatcher;
        match message {
            worker_message::Message::Hello(_) => {}
            worker_message::Message::StageChanged(change) => {
                let executing = match execution_stage::Value::try_from(change.stage) {
                    Ok(execution_stage::Value::Queued) => false,
                    Ok(execution_stage::Value::Executing) => true,
                    // Only the server reports the other stages.
                    _ => return,
                };
                if let Some((_, lease)) = self.identity.read_lease_name(&change.lease) {
                    dispatcher.change_stage(self.worker, lease, executing);
                }
            }
            worker_message::Message::Completed(completed) => {
                self.complete(completed.lease, completed.response.unwrap_or_default())
                    .await;
            }
            worker_message::Message::Drain(_) => dispatcher.drain_worker(self.worker),
        }
    }

    /// Takes the result of a lease by its name.
    async fn complete(&self, name: String, response: ExecuteResponse) {
        match self.identity.read_lease_name(&name) {
            Some(lease) => self.complete_lease(name, lease, response).await,
            None => {
                if let Some(outbound) = self.outbound.upgrade() {
                    // Not a lease of this worker, so it may forget it.
                    acknowledge(&outbound, self.service.dispatcher.last_record(), name).await;
                }
            }
        }
    }

    async fn complete_lease(
        &self,
        name: String,
        (operation, lease): (OperationId, LeaseId),
        response: ExecuteResponse,
    ) {
        let (Some(outbound), Ok(permit)) = (
            self.outbound.upgrade(),
            self.recordings.clone().acquire_owned().await,
        ) else {
            return;
        };
        if let Some(status) = &response.status
            && status.code == Code::Aborted as i32
        {
            tracing::warn!(
                worker = &**self.identity.name(),
                reason = status.message,
                "a worker with too few resources handed an Action back"
            );
            action_metrics::retried();
            let dispatcher = &self.service.dispatcher;
            dispatcher.return_lease(self.worker, lease, &status.message);
            acknowledge(&outbound, dispatcher.last_record(), name).await;
            return;
        }
        let Some(completion) = self.service.dispatcher.complete(self.worker, lease) else {
            let dispatcher = self.service.dispatcher.clone();
            let Some(mut updates) = dispatcher.recording(operation, lease) else {
                // No client waits for the result, so the worker may forget it too.
                acknowledge(&outbound, dispatcher.last_record(), name).await;
                return;
            };
            // Sent again, while the result that came on an earlier stream is being recorded: the worker must keep it
            // until that has ended.
            self.service.tasks.spawn(async move {
                let _ = updates.changed().await;
                acknowledge(&outbound, dispatcher.last_record(), name).await;
                drop(permit);
            });
            return;
        };
        let recorder = ResultRecorder {
            dispatcher: self.service.dispatcher.clone(),
            action_cache: self.service.action_cache.clone(),
            worker: self.identity.name().clone(),
        };
        // A background task: the result has arrived, so it outlives the worker's stream.
        self.service.tasks.spawn(async move {
            recorder.record(completion, response).await;
            acknowledge(&outbound, recorder.dispatcher.last_record(), name).await;
            drop(permit);
        });
    }
}

/// Acknowledges a result, once its record is durable.
async fn acknowledge(outbound: &WorkerSender, record: RecordNumber, lease: String) {
    let message = Some(scheduler_message::Message::Acknowledged(Acknowledged { lease }));
    // A worker that is gone needs no acknowledgement.
    let _ = outbound.send((record, Ok(SchedulerMessage { message }))).await;
}
