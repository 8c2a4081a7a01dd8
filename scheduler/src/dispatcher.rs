//! Dispatcher: connects the operation queue with clients, workers and the clock.

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
use super::journal::{DurabilityGate, Journal, RecordNumber, Recovered};
use super::operation_queue::{
    ActionKey, CompletedLease, Effect, LeaseId, MeasuredUse, Occupancy, OperationId, OperationOutcome,
    OperationQueue, PoolDemand, Progress, QueuedAction, Registration, Route, Snapshot, Update, WorkerId,
};
use super::worker_identity::WorkerIdentity;

/// Message to a worker, which may be sent when its record is durable.
pub(super) type OutgoingMessage = (RecordNumber, Result<SchedulerMessage, Status>);

/// Sender of the messages to one worker.
pub(super) type WorkerSender = mpsc::Sender<OutgoingMessage>;

/// Update of an operation, which clients may see when its record is durable.
#[derive(Debug, Clone)]
pub(super) struct RecordedUpdate {
    pub(super) update: Update,
    pub(super) record: RecordNumber,
}

/// Maximum number of leases that a worker reports. More than a worker's slots and unacknowledged results.
const MAX_REPORTED_LEASES: usize = 4096;

/// Maximum number of characters of a worker's name in a message.
const MAX_NAME_IN_MESSAGE: usize = 300;

/// Connection to a worker.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) identity: WorkerIdentity,
    pub(super) outbound: WorkerSender,
    /// Cancelled when the scheduler has closed the connection.
    pub(super) closed: CancellationToken,
}

/// Dispatcher of the operation queue: takes the lock, lets the queue decide, and carries out the effects.
///
/// Nothing waits under the lock: updates go into `watch` channels, and messages to workers into channels with space for
/// all messages that the leases of a worker can cause.
pub(super) struct Dispatcher {
    state: Mutex<DispatcherState>,
    clock: Arc<dyn Clock>,
    /// Notified when the next deadline is earlier than the one that [`Self::keep_time`] waits for.
    earlier_deadline: Notify,
    journal: Arc<dyn Journal>,
}

struct DispatcherState {
    queue: OperationQueue,
    operations: HashMap<OperationId, watch::Sender<RecordedUpdate>>,
    /// Leases of the inputs of Actions that are queued or run.
    inputs: HashMap<OperationId, Lease>,
    workers: HashMap<WorkerId, Connection>,
}

/// A client's attachment to an operation. Dropping it detaches the client.
pub(super) struct Attachment {
    pub(super) operation: OperationId,
    pub(super) updates: watch::Receiver<RecordedUpdate>,
    pub(super) durable: DurabilityGate,
    dispatcher: Arc<Dispatcher>,
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let operation = self.operation;
        self.dispatcher.change(|queue, now| {
            queue.detach(now, operation);
            ((), vec![])
        });
    }
}

impl Dispatcher {
    /// Creates the dispatcher, with the operations that were recovered from the journal.
    pub(super) fn new(
        config: ExecutionConfig,
        clock: Arc<dyn Clock>,
        journal: Arc<dyn Journal>,
        recovered: Recovered,
    ) -> Arc<Self> {
        let state = DispatcherState {
            queue: OperationQueue::new(config),
            operations: HashMap::new(),
            inputs: HashMap::new(),
            workers: HashMap::new(),
        };
        let dispatcher = Arc::new(Self {
            state: Mutex::new(state),
            clock,
            earlier_deadline: Notify::new(),
            journal,
        });
        dispatcher.change(|queue, now| {
            queue.restore_usage(recovered.usage);
            ((), queue.restore(now, recovered.epoch, recovered.operations))
        });
        dispatcher
    }

    /// Counts the waiting Actions, workers and slots.
    pub(super) fn occupancy(&self) -> Occupancy {
        self.state.lock().queue.occupancy()
    }

    /// Takes a snapshot for people.
    pub(super) fn snapshot(&self) -> Snapshot {
        let now = self.clock.now();
        self.state.lock().queue.snapshot(now)
    }

    /// Computes the demand for a pool.
    pub(super) fn pool_demand(&self, pool: &str) -> PoolDemand {
        let now = self.clock.now();
        self.state.lock().queue.pool_demand(now, pool)
    }

    /// Tells workers whose names match to finish their Actions and to end. They get no more. Returns their names.
    pub(super) fn drain_workers(&self, matches: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let drain = |state: &mut DispatcherState, now| {
            let named = state.queue.workers_named(matches);
            let mut effects = vec![];
            for (worker, _) in &named {
                let message = Some(scheduler_message::Message::Drain(worker::Drain {}));
                if let Some(connection) = state.workers.get(worker) {
                    // One whose channel is full is lost with its next assignment.
                    let message = Ok(SchedulerMessage { message });
                    let _ = connection.outbound.try_send((RecordNumber::default(), message));
                }
                effects.extend(state.queue.drain_worker(now, *worker));
            }
            (named.into_iter().map(|(_, name)| name).collect(), effects)
        };
        self.transition(drain).0
    }

    /// Gate that waits until records are durable.
    pub(super) fn durability(&self) -> DurabilityGate {
        DurabilityGate::new(&self.journal)
    }

    /// Number of the last record.
    pub(super) fn last_record(&self) -> RecordNumber {
        self.journal.append(vec![])
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Enqueues an Action, or joins an operation in flight. The lease `inputs` is held until the operation has ended.
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

    /// Attaches to an existing operation.
    pub(super) fn wait(self: &Arc<Self>, id: OperationId) -> Option<Attachment> {
        let mut state = self.state.lock();
        let found = state.queue.attach(id);
        found.then(|| self.attachment(&state, id)).flatten()
    }

    fn attachment(self: &Arc<Self>, state: &DispatcherState, operation: OperationId) -> Option<Attachment> {
        let mut updates = state.operations.get(&operation)?.subscribe();
        updates.mark_changed();
        Some(Attachment {
            operation,
            updates,
            durable: self.durability(),
            dispatcher: self.clone(),
        })
    }

    /// Registers a worker. Refuses it if another instance with its name is connected.
    pub(super) fn register_worker(
        &self,
        hello: &Hello,
        connection: Connection,
        route: Route,
    ) -> Result<WorkerId, ExecutionError> {
        let identity = connection.identity.clone();
        let mut leases = vec![];
        let mut leases_of_others = vec![];
        for name in hello.leases.iter().take(MAX_REPORTED_LEASES) {
            match identity.read_lease_name(name) {
                Some(lease) => leases.push(lease),
                None => leases_of_others.push(name),
            }
        }
        let register = |state: &mut DispatcherState, now| {
            let registration = Registration {
                hello,
                holder: identity.holder(),
                leases: &leases,
                route,
            };
            if route != Route::SameProcess && state.queue.has_namesake(&registration.holder) {
                let name = identity.name().chars().take(MAX_NAME_IN_MESSAGE).collect();
                return (Err(ExecutionError::WorkerNameInUse(name)), vec![]);
            }
            for name in &leases_of_others {
                // It should not go on with them. A worker that does not read its stream is closed later.
                let lease = (*name).clone();
                let message = Some(scheduler_message::Message::Cancel(worker::Cancel { lease }));
                let message = Ok(SchedulerMessage { message });
                let _ = connection.outbound.try_send((RecordNumber::default(), message));
            }
            let (worker, effects) = state.queue.register_worker(now, registration);
            // Before the effects, which may be messages to it.
            state.workers.insert(worker, connection);
            (Ok(worker), effects)
        };
        self.transition(register).0
    }

    /// Closes the stream to a worker, which keeps its leases and gets no more.
    pub(super) fn close_worker(&self, worker: WorkerId) {
        drop(self.transition(|state, now| {
            state.workers.remove(&worker);
            ((), state.queue.drain_worker(now, worker))
        }));
    }

    /// Removes a worker whose stream has ended.
    pub(super) fn disconnect_worker(&self, worker: WorkerId) {
        drop(self.transition(|state, now| {
            state.workers.remove(&worker);
            ((), state.queue.disconnect_worker(now, worker))
        }));
    }

    /// Operations that wait or run, with their Actions.
    pub(super) fn unfinished(&self) -> Vec<(OperationId, ActionKey)> {
        let state = self.state.lock();
        let operations = state.operations.iter();
        operations
            .filter(|(_, sender)| !matches!(sender.borrow().update.progress, Progress::Completed(_)))
            .map(|(id, sender)| (*id, sender.borrow().update.action.key.clone()))
            .collect()
    }

    /// Holds the lease of a restored operation's inputs until the operation has ended.
    pub(super) fn hold_inputs(&self, operation: OperationId, inputs: Lease) {
        let mut state = self.state.lock();
        if state.operations.contains_key(&operation) {
            state.inputs.insert(operation, inputs);
        }
    }

    pub(super) fn drain_worker(&self, worker: WorkerId) {
        self.change(|queue, now| ((), queue.drain_worker(now, worker)));
    }

    pub(super) fn change_stage(&self, worker: WorkerId, lease: LeaseId, executing: bool) {
        self.change(|queue, _| ((), queue.change_stage(worker, lease, executing)));
    }

    pub(super) fn complete(&self, worker: WorkerId, lease: LeaseId) -> Option<CompletedLease> {
        self.change(|queue, now| queue.complete(now, worker, lease))
    }

    /// Updates of an operation whose result under this lease is being recorded. The next one ends that.
    pub(super) fn recording(
        &self,
        operation: OperationId,
        lease: LeaseId,
    ) -> Option<watch::Receiver<RecordedUpdate>> {
        let state = self.state.lock();
        let recording = state.queue.is_recording_lease(operation, lease);
        let updates = recording.then(|| state.operations.get(&operation)).flatten()?;
        Some(updates.subscribe())
    }

    pub(super) fn return_lease(&self, worker: WorkerId, lease: LeaseId, reason: &str) {
        self.change(|queue, now| ((), queue.return_lease(now, worker, lease, reason)));
    }

    pub(super) fn finish(&self, operation: OperationId, outcome: OperationOutcome) {
        self.change(|queue, now| ((), queue.finish(now, operation, outcome)));
    }

    /// Fails an operation that waits.
    pub(super) fn refuse(&self, operation: OperationId, error: ExecutionError) {
        self.change(|queue, now| ((), queue.refuse(now, operation, error)));
    }

    pub(super) fn retry(&self, operation: OperationId, attempt: String) {
        self.change(|queue, now| ((), queue.retry(now, operation, attempt)));
    }

    /// Notes that a worker has trees of files.
    pub(super) fn note_trees(&self, worker: WorkerId, trees: &[u64]) {
        self.state.lock().queue.note_trees(worker, trees);
    }

    /// Learns from the result of an Action how much its task uses.
    pub(super) fn learn(&self, action: &QueuedAction, measured: &MeasuredUse) {
        self.change(|queue, _| ((), queue.learn(action, measured)));
    }

    /// Queues an operation again that reached a bound of memory, if a worker allows more. False if its result stands.
    pub(super) fn retry_with_more_memory(&self, operation: OperationId, bound: u64, attempt: String) -> bool {
        self.change(|queue, now| queue.retry_with_more_memory(now, operation, bound, attempt))
    }

    /// Ticks the queue at its deadlines until `shutdown`.
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
                () = due => self.change(|queue, now| ((), queue.tick(now))),
            }
        }
    }

    /// Changes the queue, and carries out the effects.
    fn change<T>(&self, transition: impl FnOnce(&mut OperationQueue, Time) -> (T, Vec<Effect>)) -> T {
        self.transition(|state, now| transition(&mut state.queue, now)).0
    }

    /// Makes one transition: decides, carries out, and wakes [`Self::keep_time`] if the next deadline is earlier. The lock is
    /// still held on return.
    fn transition<T>(
        &self,
        transition: impl FnOnce(&mut DispatcherState, Time) -> (T, Vec<Effect>),
    ) -> (T, MutexGuard<'_, DispatcherState>) {
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

    fn carry_out(&self, state: &mut DispatcherState, now: Time, effects: Vec<Effect>) {
        // All records of the transition come first: what the other effects show outside waits for them.
        let mut record = self.append(&effects);
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Record(_) => {}
                Effect::Publish { operation, update } => {
                    if matches!(update.progress, Progress::Completed(_)) {
                        state.inputs.remove(&operation);
                    }
                    let update = RecordedUpdate { update, record };
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
                    operation,
                    lease,
                    action,
                } => {
                    let message = scheduler_message::Message::Assign(worker::Assign {
                        lease: lease_name(state, worker, operation, lease),
                        instance_name: action.key.instance.as_str().to_owned(),
                        digest_function: action.key.digest.function().to_wire(),
                        action_digest: Some(action.key.digest.into()),
                        queued_unix_nanos: timestamp::unix_nanos(action.queued),
                        request_metadata: action.request_metadata.clone(),
                    });
                    self.send(state, now, worker, message, &mut record, &mut effects);
                }
                Effect::Cancel {
                    worker,
                    operation,
                    lease,
                } => {
                    let lease = lease_name(state, worker, operation, lease);
                    let message = scheduler_message::Message::Cancel(worker::Cancel { lease });
                    self.send(state, now, worker, message, &mut record, &mut effects);
                }
                Effect::Upcoming { worker, actions } => {
                    if let Some(connection) = state.workers.get(&worker) {
                        tell_upcoming(connection, record, &actions);
                    }
                }
                Effect::Close { worker } => {
                    if let Some(connection) = state.workers.remove(&worker) {
                        connection.closed.cancel();
                    }
                }
            }
        }
    }

    /// Sends a message to a worker. A worker whose channel is full does not read its stream, so that is closed.
    fn send(
        &self,
        state: &mut DispatcherState,
        now: Time,
        worker: WorkerId,
        message: scheduler_message::Message,
        record: &mut RecordNumber,
        effects: &mut VecDeque<Effect>,
    ) {
        let message = SchedulerMessage {
            message: Some(message),
        };
        let connection = state.workers.get(&worker);
        let sent =
            connection.is_some_and(|connection| connection.outbound.try_send((*record, Ok(message))).is_ok());
        if !sent {
            if let Some(connection) = state.workers.remove(&worker) {
                connection.closed.cancel();
            }
            let lost = state.queue.disconnect_worker(now, worker);
            *record = self.append(&lost);
            effects.extend(lost);
        }
    }

    /// Appends the records among effects. Returns the number of the last record that exists.
    fn append(&self, effects: &[Effect]) -> RecordNumber {
        let records = effects.iter().filter_map(|effect| match effect {
            Effect::Record(record) => Some(record.clone()),
            _ => None,
        });
        self.journal.append(records.collect())
    }
}

/// Tells a worker its upcoming Actions. Leaves that out if the worker does not keep up: the channel has space for what the
/// leases need.
fn tell_upcoming(connection: &Connection, record: RecordNumber, actions: &[Arc<QueuedAction>]) {
    if connection.outbound.capacity() < connection.outbound.max_capacity() / 2 {
        return;
    }
    let actions = actions.iter().map(|action| worker::UpcomingAction {
        instance_name: action.key.instance.as_str().to_owned(),
        digest_function: action.key.digest.function().to_wire(),
        action_digest: Some(action.key.digest.into()),
    });
    let actions = actions.collect();
    let message = Some(scheduler_message::Message::Upcoming(worker::Upcoming { actions }));
    let _ = connection
        .outbound
        .try_send((record, Ok(SchedulerMessage { message })));
}

/// Name of a lease for its worker. Empty if the worker has gone, and then nobody gets the message either.
fn lease_name(state: &DispatcherState, worker: WorkerId, operation: OperationId, lease: LeaseId) -> String {
    let connection = state.workers.get(&worker);
    connection.map_or_else(String::new, |connection| {
        connection.identity.lease_name(operation, lease)
    })
}
