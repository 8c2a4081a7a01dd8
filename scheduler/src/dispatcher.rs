//! The operation queue with what it acts on: the clients' updates, the workers' streams, the clock.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bitzel_cas::Lease;
use bitzel_proto::timestamp;
use bitzel_proto::worker::{self, Hello, SchedulerMessage, scheduler_message};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::clock::{Clock, Time};
use super::error::ExecutionError;
use super::execution_config::ExecutionConfig;
use super::operation_queue::{
    Completion, Effect, LeaseId, Occupancy, OperationId, OperationQueue, Outcome, Progress, QueuedAction,
    Update, WorkerId,
};

/// What a worker's stream carries.
pub(super) type ToWorker = mpsc::Sender<Result<SchedulerMessage, Status>>;

/// A worker as the dispatcher reaches it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) outbound: ToWorker,
    /// Cancelled when the scheduler has closed the connection.
    pub(super) closed: CancellationToken,
}

/// Runs the operation queue: takes the lock, lets the queue decide, carries out the effects.
///
/// Nothing waits under the lock: updates go into `watch` channels, messages to workers into channels with room for
/// everything that the leases of a worker can cause.
pub(super) struct Dispatcher {
    state: Mutex<State>,
    clock: Arc<dyn Clock>,
    /// The next deadline is earlier than the ticking task knows.
    earlier_deadline: Notify,
    /// Begins the leases' names, so that a lease from before a restart names nothing.
    lease_prefix: String,
}

struct State {
    queue: OperationQueue,
    operations: HashMap<OperationId, watch::Sender<Update>>,
    /// Keep the inputs of what is queued or running in the store.
    inputs: HashMap<OperationId, Lease>,
    workers: HashMap<WorkerId, Connection>,
}

/// A client that follows an operation. Dropping it tells the queue that the client has gone.
pub(super) struct Attachment {
    pub(super) operation: OperationId,
    pub(super) updates: watch::Receiver<Update>,
    dispatcher: Arc<Dispatcher>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let operation = self.operation;
        self.dispatcher.with(|queue, now| {
            queue.detach(now, operation);
            ((), vec![])
        });
    }
}

impl Dispatcher {
    pub(super) fn new(config: ExecutionConfig, clock: Arc<dyn Clock>) -> Arc<Self> {
        let state = State {
            queue: OperationQueue::new(config),
            operations: HashMap::new(),
            inputs: HashMap::new(),
            workers: HashMap::new(),
        };
        Arc::new(Self {
            state: Mutex::new(state),
            clock,
            earlier_deadline: Notify::new(),
            lease_prefix: format!("{}-", Uuid::new_v4().simple()),
        })
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        self.state.lock().queue.occupancy()
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Enqueues an Action, or joins an operation in flight. `inputs` is held until the operation has ended.
    pub(super) fn execute(
        self: &Arc<Self>,
        action: QueuedAction,
        inputs: Lease,
        not_yet_visible: bool,
    ) -> Result<Attachment, ExecutionError> {
        let fresh_id = OperationId(Uuid::new_v4());
        let (result, state) =
            self.transition(
                |state, now| match state.queue.execute(now, fresh_id, action, not_yet_visible) {
                    Ok((id, effects)) => {
                        state.inputs.entry(id).or_insert(inputs);
                        (Ok(id), effects)
                    }
                    Err(error) => (Err(error), vec![]),
                },
            );
        self.attachment(&state, result?)
            .ok_or(ExecutionError::Internal("the operation was not announced"))
    }

    /// Follows an operation that exists.
    pub(super) fn wait(self: &Arc<Self>, id: OperationId) -> Option<Attachment> {
        let mut state = self.state.lock();
        let found = state.queue.attach(id);
        found.then(|| self.attachment(&state, id)).flatten()
    }

    fn attachment(self: &Arc<Self>, state: &State, operation: OperationId) -> Option<Attachment> {
        let mut updates = state.operations.get(&operation)?.subscribe();
        updates.mark_changed();
        Some(Attachment {
            operation,
            updates,
            dispatcher: self.clone(),
        })
    }

    pub(super) fn register_worker(&self, hello: &Hello, connection: Connection) -> WorkerId {
        let register = |state: &mut State, _| {
            let (worker, effects) = state.queue.register_worker(hello);
            state.workers.insert(worker, connection);
            (worker, effects)
        };
        self.transition(register).0
    }

    pub(super) fn lose_worker(&self, worker: WorkerId) {
        drop(self.transition(|state, now| {
            state.workers.remove(&worker);
            ((), state.queue.lose_worker(now, worker))
        }));
    }

    pub(super) fn drain_worker(&self, worker: WorkerId) {
        self.with(|queue, now| ((), queue.drain_worker(now, worker)));
    }

    pub(super) fn change_stage(&self, worker: WorkerId, lease: &str, executing: bool) {
        if let Some(lease) = self.parse_lease(lease) {
            self.with(|queue, _| ((), queue.change_stage(worker, lease, executing)));
        }
    }

    pub(super) fn complete(&self, worker: WorkerId, lease: &str) -> Option<Completion> {
        let lease = self.parse_lease(lease)?;
        self.with(|queue, _| queue.complete(worker, lease))
    }

    pub(super) fn finish(&self, operation: OperationId, outcome: Outcome) {
        self.with(|queue, now| ((), queue.finish(now, operation, outcome)));
    }

    pub(super) fn retry(&self, operation: OperationId, attempt: String) {
        self.with(|queue, now| ((), queue.retry(now, operation, attempt)));
    }

    /// Lets deadlines pass until `shutdown`.
    pub(super) async fn keep_time(self: Arc<Self>, shutdown: CancellationToken) {
        loop {
            let deadline = self.state.lock().queue.next_deadline();
            let due = async {
                match deadline {
                    Some(deadline) => self.clock.sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.earlier_deadline.notified() => {}
                () = due => self.with(|queue, now| ((), queue.tick(now))),
            }
        }
    }

    fn with<T>(&self, transition: impl FnOnce(&mut OperationQueue, Time) -> (T, Vec<Effect>)) -> T {
        self.transition(|state, now| transition(&mut state.queue, now)).0
    }

    /// One step: decides, carries out, and wakes the ticking task where a deadline came closer. Still holds the lock
    /// when it returns.
    fn transition<T>(
        &self,
        transition: impl FnOnce(&mut State, Time) -> (T, Vec<Effect>),
    ) -> (T, MutexGuard<'_, State>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let before = state.queue.next_deadline();
        let (value, effects) = transition(&mut state, now);
        self.carry_out(&mut state, now, effects);
        let after = state.queue.next_deadline();
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.earlier_deadline.notify_one();
        }
        (value, state)
    }

    fn carry_out(&self, state: &mut State, now: Time, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Publish { operation, update } => {
                    if matches!(update.progress, Progress::Completed(_)) {
                        state.inputs.remove(&operation);
                    }
                    match state.operations.get(&operation) {
                        Some(sender) => {
                            sender.send_replace(update);
                        }
                        None => {
                            state.operations.insert(operation, watch::Sender::new(update));
                        }
                    }
                }
                Effect::Forget { operation } => {
                    state.operations.remove(&operation);
                    state.inputs.remove(&operation);
                }
                Effect::Assign {
                    worker,
                    lease,
                    action,
                } => {
                    let message = scheduler_message::Message::Assign(worker::Assign {
                        lease: self.lease_name(lease),
                        instance_name: action.key.instance.as_str().to_owned(),
                        digest_function: action.key.digest.function().to_wire(),
                        action_digest: Some(action.key.digest.into()),
                        queued_unix_nanos: timestamp::unix_nanos(action.queued),
                        request_metadata: action.request_metadata.clone(),
                    });
                    Self::send(state, now, worker, message, &mut effects);
                }
                Effect::Cancel { worker, lease } => {
                    let lease = self.lease_name(lease);
                    let message = scheduler_message::Message::Cancel(worker::Cancel { lease });
                    Self::send(state, now, worker, message, &mut effects);
                }
                Effect::Close { worker } => {
                    if let Some(connection) = state.workers.remove(&worker) {
                        connection.closed.cancel();
                    }
                }
            }
        }
    }

    /// A worker whose channel is full does not read its stream: it counts as lost.
    fn send(
        state: &mut State,
        now: Time,
        worker: WorkerId,
        message: scheduler_message::Message,
        effects: &mut VecDeque<Effect>,
    ) {
        let message = SchedulerMessage {
            message: Some(message),
        };
        let connection = state.workers.get(&worker);
        let sent = connection.is_some_and(|connection| connection.outbound.try_send(Ok(message)).is_ok());
        if !sent {
            if let Some(connection) = state.workers.remove(&worker) {
                connection.closed.cancel();
            }
            effects.extend(state.queue.lose_worker(now, worker));
        }
    }

    fn lease_name(&self, lease: LeaseId) -> String {
        format!("{}{}", self.lease_prefix, lease.0)
    }

    fn parse_lease(&self, lease: &str) -> Option<LeaseId> {
        lease.strip_prefix(&self.lease_prefix)?.parse().ok().map(LeaseId)
    }
}
