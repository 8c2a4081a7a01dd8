use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bitzel_proto::google::rpc;
use bitzel_proto::reapi::{ExecuteResponse, execution_stage};
use bitzel_proto::worker::{
    Acknowledged, Assign, Cancel, Hello, SchedulerMessage, Upcoming, WorkerMessage, scheduler_message,
    worker_message,
};
use bitzel_proto::{DigestFunction, InstanceName};
use futures::StreamExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::take_actions;
use crate::action_executor::{ActionExecutor, ActionRequest};
use crate::action_source::{ActionSource, SchedulerMessages};
use crate::error::Error;
use crate::input_prefetcher::{InputPrefetcher, UpcomingAction};
use crate::input_root::PrefetchedInputs;

const LONG_DRAIN_TIMEOUT: Duration = Duration::from_hours(1);

/// Scheduler in memory that passes every stream to the test.
struct FakeScheduler(mpsc::UnboundedSender<Connection>);

struct Connection {
    inbound: mpsc::Receiver<WorkerMessage>,
    outbound: mpsc::Sender<Result<SchedulerMessage, Status>>,
}

#[async_trait]
impl ActionSource for FakeScheduler {
    async fn connect(&self, inbound: mpsc::Receiver<WorkerMessage>) -> Result<SchedulerMessages, String> {
        let (outbound, receiver) = mpsc::channel(16);
        self.0.send(Connection { inbound, outbound }).unwrap();
        Ok(ReceiverStream::new(receiver).boxed())
    }
}

/// Scheduler that is reached once, and then never again.
struct VanishingScheduler {
    first: FakeScheduler,
    vanished: Notify,
    connected: AtomicBool,
}

#[async_trait]
impl ActionSource for VanishingScheduler {
    async fn connect(&self, inbound: mpsc::Receiver<WorkerMessage>) -> Result<SchedulerMessages, String> {
        if !self.connected.swap(true, Ordering::Relaxed) {
            return self.first.connect(inbound).await;
        }
        self.vanished.notify_one();
        std::future::pending().await
    }
}

impl Connection {
    async fn send(&self, message: scheduler_message::Message) {
        let message = Some(message);
        self.outbound
            .send(Ok(SchedulerMessage { message }))
            .await
            .unwrap();
    }

    async fn assign(&self, lease: &str) {
        self.send(scheduler_message::Message::Assign(Assign {
            lease: lease.into(),
            action_digest: Some(DigestFunction::Sha256.digest(lease.as_bytes()).into()),
            queued_unix_nanos: 1_500_000_001,
            ..Assign::default()
        }))
        .await;
    }

    async fn tell_upcoming(&self, names: &[&str]) {
        let actions = names.iter().map(|name| bitzel_proto::worker::UpcomingAction {
            action_digest: Some(upcoming(name).action.into()),
            ..Default::default()
        });
        let actions = actions.collect();
        self.send(scheduler_message::Message::Upcoming(Upcoming { actions }))
            .await;
    }

    async fn acknowledge(&self, lease: &str) {
        let lease = lease.into();
        self.send(scheduler_message::Message::Acknowledged(Acknowledged { lease }))
            .await;
    }

    async fn next(&mut self) -> Option<worker_message::Message> {
        let message = self.inbound.recv().await?;
        Some(message.message.unwrap())
    }

    async fn hello(&mut self) -> Hello {
        match self.next().await {
            Some(worker_message::Message::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    /// Reads up to the next completion and returns its lease and response.
    async fn completed(&mut self) -> (String, ExecuteResponse) {
        loop {
            match self.next().await {
                Some(worker_message::Message::Completed(completed)) => {
                    return (completed.lease, completed.response.unwrap());
                }
                Some(_) => {}
                None => panic!("the worker closed the stream"),
            }
        }
    }

    async fn drain(&mut self) {
        assert!(matches!(
            self.next().await,
            Some(worker_message::Message::Drain(_))
        ));
    }
}

/// Executor whose executions end when the gate opens or when they are cancelled.
#[derive(Default)]
struct GatedExecutor {
    gate: Notify,
    /// Number of executions that ended by themselves or after a cancellation.
    ended: AtomicUsize,
}

#[async_trait]
impl ActionExecutor for GatedExecutor {
    async fn execute(&self, request: ActionRequest) -> ExecuteResponse {
        let queued = request.queued.unwrap();
        assert_eq!((queued.seconds, queued.nanos), (1, 500_000_001));
        request
            .stages
            .unwrap()
            .send(execution_stage::Value::Executing)
            .unwrap();
        let code = tokio::select! {
            () = self.gate.notified() => Code::Ok,
            () = request.cancellation.cancelled() => Code::Cancelled,
        };
        self.ended.fetch_add(1, Ordering::Relaxed);
        ExecuteResponse {
            status: Some(rpc::Status {
                code: code.into(),
                ..rpc::Status::default()
            }),
            message: request.action.to_string(),
            ..ExecuteResponse::default()
        }
    }
}

/// Prefetcher that tells the starts and ends of its fetches, which end when they are dropped.
struct ObservedPrefetcher(mpsc::UnboundedSender<(UpcomingAction, &'static str)>);

struct Fetching(
    mpsc::UnboundedSender<(UpcomingAction, &'static str)>,
    UpcomingAction,
);

impl Drop for Fetching {
    fn drop(&mut self) {
        let _ = self.0.send((self.1.clone(), "ended"));
    }
}

#[async_trait]
impl InputPrefetcher for ObservedPrefetcher {
    async fn prefetch(&self, upcoming: &UpcomingAction) -> Result<PrefetchedInputs, Error> {
        let _fetching = Fetching(self.0.clone(), upcoming.clone());
        self.0.send((upcoming.clone(), "started")).unwrap();
        std::future::pending().await
    }
}

/// A worker and its fake scheduler.
struct Farm {
    connections: mpsc::UnboundedReceiver<Connection>,
    executor: Arc<GatedExecutor>,
    fetches: mpsc::UnboundedReceiver<(UpcomingAction, &'static str)>,
    shutdown: CancellationToken,
    worker: JoinHandle<()>,
}

impl Farm {
    fn new(drain_timeout: Duration) -> Self {
        let (sender, connections) = mpsc::unbounded_channel();
        let executor = Arc::new(GatedExecutor::default());
        let shutdown = CancellationToken::new();
        let (fetches, fetches_receiver) = mpsc::unbounded_channel();
        let worker = tokio::spawn({
            let (executor, shutdown) = (Arc::clone(&executor), shutdown.clone());
            let hello = Hello {
                worker_name: "tester".into(),
                slots: 3,
                ..Hello::default()
            };
            async move {
                let source = FakeScheduler(sender);
                let prefetcher = Arc::new(ObservedPrefetcher(fetches));
                take_actions(&source, &hello, executor, prefetcher, drain_timeout, &shutdown).await;
            }
        });
        Self {
            connections,
            executor,
            fetches: fetches_receiver,
            shutdown,
            worker,
        }
    }

    async fn connection(&mut self) -> Connection {
        let mut connection = self.connections.recv().await.unwrap();
        let hello = connection.hello().await;
        assert_eq!((hello.worker_name.as_str(), hello.slots), ("tester", 3));
        connection
    }
}

fn code(response: &ExecuteResponse) -> i32 {
    response.status.as_ref().unwrap().code
}

#[tokio::test]
async fn reports_the_stage_and_the_result_of_an_assignment() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    match connection.next().await {
        Some(worker_message::Message::StageChanged(change)) => {
            assert_eq!(
                (change.lease.as_str(), change.stage),
                ("a", execution_stage::Value::Executing.into())
            );
        }
        other => panic!("{other:?}"),
    }
    farm.executor.gate.notify_one();
    let (lease, response) = connection.completed().await;
    assert_eq!((lease.as_str(), code(&response)), ("a", 0));
    assert_eq!(response.message, DigestFunction::Sha256.digest(b"a").to_string());
}

#[tokio::test]
async fn shutdown_waits_until_results_are_acknowledged() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    connection.next().await;
    farm.shutdown.cancel();
    connection.drain().await;
    farm.executor.gate.notify_one();
    let (lease, response) = connection.completed().await;
    assert_eq!((lease.as_str(), code(&response)), ("a", 0));
    // The worker still works: it waits for the acknowledgement.
    connection.assign("b").await;
    connection.next().await;
    connection.acknowledge("a").await;
    farm.executor.gate.notify_one();
    assert_eq!(connection.completed().await.0, "b");
    assert!(!farm.worker.is_finished());
    connection.acknowledge("b").await;
    farm.worker.await.unwrap();
    assert!(connection.next().await.is_none());
}

#[tokio::test]
async fn shutdown_without_drain_time_cancels_actions() {
    let mut farm = Farm::new(Duration::ZERO);
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    connection.next().await;
    farm.shutdown.cancel();
    let (lease, response) = connection.completed().await;
    assert_eq!((lease.as_str(), code(&response)), ("a", Code::Cancelled.into()));
    connection.acknowledge("a").await;
    farm.worker.await.unwrap();
}

#[tokio::test]
async fn cancels_one_lease_of_two() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    connection.assign("b").await;
    connection
        .send(scheduler_message::Message::Cancel(Cancel { lease: "a".into() }))
        .await;
    // A lease that is unknown.
    connection
        .send(scheduler_message::Message::Cancel(Cancel { lease: "x".into() }))
        .await;
    let (lease, response) = connection.completed().await;
    assert_eq!((lease.as_str(), code(&response)), ("a", Code::Cancelled.into()));
    farm.executor.gate.notify_one();
    let (lease, response) = connection.completed().await;
    assert_eq!((lease.as_str(), code(&response)), ("b", 0));
}

#[tokio::test]
async fn executions_outlive_a_broken_stream() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    connection.next().await;
    drop(connection);
    let mut connection = farm.connections.recv().await.unwrap();
    assert_eq!(connection.hello().await.leases, ["a"]);
    farm.executor.gate.notify_one();
    let (lease, response) = connection.completed().await;
    assert_eq!((lease.as_str(), code(&response)), ("a", 0));
}

#[tokio::test]
async fn an_unacknowledged_result_is_sent_again() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    connection.next().await;
    farm.executor.gate.notify_one();
    connection.completed().await;
    drop(connection);
    let mut connection = farm.connections.recv().await.unwrap();
    assert_eq!(connection.hello().await.leases, ["a"]);
    let (lease, response) = connection.completed().await;
    assert_eq!((lease.as_str(), code(&response)), ("a", 0));
    connection.acknowledge("a").await;
    farm.shutdown.cancel();
    connection.drain().await;
    farm.worker.await.unwrap();
}

#[tokio::test]
async fn f22_a_result_refused_for_its_size_is_not_sent_again() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    connection.next().await;
    farm.executor.gate.notify_one();
    connection.completed().await;
    let refusal = Err(Status::out_of_range("too large"));
    connection.outbound.send(refusal).await.unwrap();
    let mut connection = farm.connections.recv().await.unwrap();
    assert_eq!(connection.hello().await.leases, ["a"]);
    let (lease, response) = connection.completed().await;
    assert_eq!(
        (lease.as_str(), code(&response)),
        ("a", Code::FailedPrecondition.into())
    );
}

#[tokio::test]
async fn a_lease_that_the_scheduler_gave_away_is_cancelled() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    connection.next().await;
    drop(connection);
    let mut connection = farm.connection().await;
    connection
        .send(scheduler_message::Message::Cancel(Cancel { lease: "a".into() }))
        .await;
    let (lease, response) = connection.completed().await;
    assert_eq!((lease.as_str(), code(&response)), ("a", Code::Cancelled.into()));
}

#[tokio::test]
async fn a_draining_worker_delivers_its_results_on_another_stream() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    connection.next().await;
    farm.shutdown.cancel();
    connection.drain().await;
    drop(connection);
    let mut connection = farm.connections.recv().await.unwrap();
    let hello = connection.hello().await;
    assert_eq!((hello.draining, hello.leases), (true, vec!["a".to_owned()]));
    farm.executor.gate.notify_one();
    let (lease, response) = connection.completed().await;
    assert_eq!((lease.as_str(), code(&response)), ("a", 0));
    connection.acknowledge("a").await;
    farm.worker.await.unwrap();
}

#[tokio::test]
async fn an_idle_worker_without_a_stream_ends_at_once() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    drop(farm.connection().await);
    farm.shutdown.cancel();
    farm.worker.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_does_not_wait_for_acknowledgements_for_ever() {
    let mut farm = Farm::new(Duration::from_mins(1));
    let mut connection = farm.connection().await;
    connection.assign("a").await;
    connection.next().await;
    let before = Instant::now();
    farm.shutdown.cancel();
    connection.drain().await;
    let (_, response) = connection.completed().await;
    assert_eq!(code(&response), Code::Cancelled as i32);
    // The stream is open, and nothing comes.
    farm.worker.await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 60 + 30);
}

#[tokio::test(start_paused = true)]
async fn without_a_scheduler_executions_end_with_the_drain_time() {
    let (sender, mut connections) = mpsc::unbounded_channel();
    let source = Arc::new(VanishingScheduler {
        first: FakeScheduler(sender),
        vanished: Notify::new(),
        connected: AtomicBool::new(false),
    });
    let executor = Arc::new(GatedExecutor::default());
    let prefetcher = Arc::new(ObservedPrefetcher(mpsc::unbounded_channel().0));
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn({
        let (source, executor, shutdown) = (Arc::clone(&source), Arc::clone(&executor), shutdown.clone());
        async move {
            take_actions(
                &*source,
                &Hello::default(),
                executor,
                prefetcher,
                LONG_DRAIN_TIMEOUT,
                &shutdown,
            )
            .await;
        }
    });
    let mut connection = connections.recv().await.unwrap();
    connection.hello().await;
    connection.assign("a").await;
    connection.next().await;
    drop(connection);
    source.vanished.notified().await;
    let before = Instant::now();
    shutdown.cancel();
    worker.await.unwrap();
    assert_eq!(before.elapsed().as_secs(), LONG_DRAIN_TIMEOUT.as_secs());
    let ended = executor.ended.load(Ordering::Relaxed);
    assert_eq!(ended, 1, "the execution was cancelled, not abandoned");
}

#[tokio::test]
async fn refuses_a_malformed_assignment() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    let assign = Assign {
        lease: "a".into(),
        digest_function: 99,
        ..Assign::default()
    };
    connection.send(scheduler_message::Message::Assign(assign)).await;
    let (lease, response) = connection.completed().await;
    assert_eq!(
        (lease.as_str(), code(&response)),
        ("a", Code::InvalidArgument.into())
    );
    assert_eq!(
        response.message,
        "the assignment is malformed: digest function 99"
    );
}

/// The Action that [`Connection::assign`] assigns under this lease.
fn upcoming(lease: &str) -> UpcomingAction {
    UpcomingAction {
        instance: InstanceName::default(),
        action: DigestFunction::Sha256.digest(lease.as_bytes()),
    }
}

#[tokio::test]
async fn fetches_inputs_of_upcoming_actions() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let connection = farm.connection().await;
    connection.tell_upcoming(&["a"]).await;
    assert_eq!(farm.fetches.recv().await, Some((upcoming("a"), "started")));
    connection.tell_upcoming(&["b"]).await;
    let mut next = [
        farm.fetches.recv().await.unwrap(),
        farm.fetches.recv().await.unwrap(),
    ];
    next.sort_by_key(|(_, event)| *event);
    assert_eq!(next, [(upcoming("a"), "ended"), (upcoming("b"), "started")]);
}

#[tokio::test]
async fn a_fetch_goes_on_until_its_action_runs() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let connection = farm.connection().await;
    connection.tell_upcoming(&["a", "b"]).await;
    let mut started = [
        farm.fetches.recv().await.unwrap().0,
        farm.fetches.recv().await.unwrap().0,
    ];
    started.sort_by_key(|started| *started != upcoming("a"));
    assert_eq!(started, [upcoming("a"), upcoming("b")]);
    connection.assign("b").await;
    // The executor reports at once that it has the inputs of b.
    assert_eq!(farm.fetches.recv().await, Some((upcoming("b"), "ended")));
    connection.tell_upcoming(&[]).await;
    assert_eq!(farm.fetches.recv().await, Some((upcoming("a"), "ended")));
}

#[tokio::test]
async fn a_shutdown_ends_fetches() {
    let mut farm = Farm::new(LONG_DRAIN_TIMEOUT);
    let mut connection = farm.connection().await;
    connection.tell_upcoming(&["a"]).await;
    assert_eq!(farm.fetches.recv().await, Some((upcoming("a"), "started")));
    farm.shutdown.cancel();
    connection.drain().await;
    assert_eq!(farm.fetches.recv().await, Some((upcoming("a"), "ended")));
}
