//! gRPC services of a server in a group: they serve the call if this server leads, and forward it otherwise.

use std::sync::Arc;
use std::time::Duration;

use bitzel_access::{Permission, authorize};
use bitzel_proto::InstanceName;
use bitzel_proto::google::longrunning::Operation;
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::reapi::execution_server::{Execution, ExecutionServer};
use bitzel_proto::reapi::{ExecuteRequest, WaitExecutionRequest};
use bitzel_proto::worker::worker_queue_client::WorkerQueueClient;
use bitzel_proto::worker::worker_queue_server::{WorkerQueue, WorkerQueueServer};
use bitzel_proto::worker::{SchedulerMessage, WorkerMessage};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::forwarded_identity::ForwardedIdentities;
use super::group::{Reign, Role};
use super::leader_connection::{LeaderConnection, is_forwarded};
use crate::worker_queue_service::MAX_MESSAGE_BYTES;

/// Maximum time that a call waits for a leader. More than a change of leaders takes.
const MAX_LEADER_WAIT: Duration = Duration::from_secs(15);
/// Pause after an attempt to reach a leader that has ended, and that no other has followed yet.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Role of this server, and what it needs to forward calls.
#[derive(Clone)]
pub(super) struct Router {
    pub(super) role: watch::Receiver<Role>,
    pub(super) identities: Arc<ForwardedIdentities>,
    pub(super) shutdown: CancellationToken,
}

/// Destination of a call.
enum Destination {
    /// The queue of this server.
    Own(Arc<Reign>),
    /// The leader, and a channel to it.
    Leader(Arc<LeaderConnection>, bitzel_rpc::endpoint::Channel),
}

impl Router {
    /// Finds the leader, and waits for one if there is none.
    async fn destination(&self, metadata: &MetadataMap) -> Result<Destination, Status> {
        let deadline = Instant::now() + MAX_LEADER_WAIT;
        let finding = async {
            let mut role = self.role.clone();
            loop {
                let present = role.borrow_and_update().clone();
                match present {
                    Role::Leads(reign) if reign.tenure.is_valid() => return Ok(Destination::Own(reign)),
                    Role::Follows(_) if is_forwarded(metadata) => {
                        return Err(Status::unavailable(
                            "this scheduler does not lead any more; try again",
                        ));
                    }
                    Role::Follows(leader) => {
                        // Before the attempt: the connection may hang when the machine is gone.
                        let channel = tokio::select! {
                            channel = leader.channel() => channel,
                            _ = role.changed() => continue,
                        };
                        if let Ok(channel) = channel {
                            return Ok(Destination::Leader(leader, channel));
                        }
                        let _ = tokio::time::timeout(RETRY_PAUSE, role.changed()).await;
                    }
                    Role::Leads(_) | Role::Unknown => {
                        if role.changed().await.is_err() {
                            return Err(shutting_down());
                        }
                    }
                }
            }
        };
        tokio::select! {
            found = finding => found,
            () = self.shutdown.cancelled() => Err(shutting_down()),
            () = tokio::time::sleep_until(deadline) => Err(Status::unavailable(
                "no scheduler leads at the moment (can they reach PostgreSQL?); try again",
            )),
        }
    }
}

fn shutting_down() -> Status {
    Status::unavailable("the server is shutting down; try again")
}

/// A response that is shown only as long as this server leads. It ends with `UNAVAILABLE`, so that the caller looks for
/// the new leader.
fn while_leading<T: Send + 'static>(
    reign: Arc<Reign>,
    responses: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> BoxStream<'static, Result<T, Status>> {
    let ended = || {
        Err(Status::unavailable(
            "this scheduler does not lead any more; try again",
        ))
    };
    let state = Some((reign, responses.boxed()));
    stream::unfold(state, move |state| async move {
        let (reign, mut responses) = state?;
        let response = tokio::select! {
            biased;
            () = reign.tenure.ended().cancelled() => return Some((ended(), None)),
            response = responses.next() => response?,
        };
        // A process that was stopped may go on here.
        if reign.tenure.is_valid() {
            Some((response, Some((reign, responses))))
        } else {
            Some((ended(), None))
        }
    })
    .boxed()
}

/// A response of the leader, which ends when another server leads: the connection to a machine that hangs stays open.
fn while_following<T: Send + 'static>(
    leader: &LeaderConnection,
    responses: Streaming<T>,
) -> BoxStream<'static, Result<T, Status>> {
    let state = Some((leader.left().clone(), responses));
    stream::unfold(state, move |state| async move {
        let (left, mut responses) = state?;
        tokio::select! {
            biased;
            () = left.cancelled() => {
                Some((Err(Status::unavailable("another scheduler leads now; try again")), None))
            }
            response = responses.next() => match response? {
                Ok(response) => Some((Ok(response), Some((left, responses)))),
                Err(status) => Some((Err(passed_on(status)), None)),
            },
        }
    })
    .boxed()
}

/// The leader's status for the caller. A connection that breaks is reported by tonic with other codes than `UNAVAILABLE`,
/// as if the call had failed.
fn passed_on(status: Status) -> Status {
    if std::error::Error::source(&status).is_some() {
        Status::unavailable(format!(
            "the scheduler that leads is gone: {}; try again",
            status.message()
        ))
    } else {
        status
    }
}

/// `Execution` service of a server in a group.
#[derive(Clone)]
pub struct GroupExecutionService {
    pub(super) router: Router,
}

impl GroupExecutionService {
    /// Creates the gRPC service for a server.
    pub fn into_server(self) -> ExecutionServer<Self> {
        ExecutionServer::new(self)
    }
}

type OperationStream = BoxStream<'static, Result<Operation, Status>>;

#[tonic::async_trait]
impl Execution for GroupExecutionService {
    type ExecuteStream = OperationStream;
    type WaitExecutionStream = OperationStream;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<OperationStream>, Status> {
        match self.router.destination(request.metadata()).await? {
            Destination::Own(reign) => {
                let response = reign.execution.execute(request).await?;
                Ok(response.map(|responses| while_leading(reign, responses)))
            }
            Destination::Leader(leader, channel) => {
                let (metadata, extensions, message) = request.into_parts();
                let request = leader.request(message, &metadata, &extensions, &self.router.identities);
                let response = client(channel).execute(request).await.map_err(passed_on)?;
                Ok(response.map(|responses| while_following(&leader, responses)))
            }
        }
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        match self.router.destination(request.metadata()).await? {
            Destination::Own(reign) => {
                let response = reign.execution.wait_execution(request).await?;
                Ok(response.map(|responses| while_leading(reign, responses)))
            }
            Destination::Leader(leader, channel) => {
                let (metadata, extensions, message) = request.into_parts();
                let request = leader.request(message, &metadata, &extensions, &self.router.identities);
                let response = client(channel).wait_execution(request).await.map_err(passed_on)?;
                Ok(response.map(|responses| while_following(&leader, responses)))
            }
        }
    }
}

fn client(channel: bitzel_rpc::endpoint::Channel) -> ExecutionClient<bitzel_rpc::endpoint::Channel> {
    ExecutionClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// `WorkerQueue` service of a server in a group.
#[derive(Clone)]
pub struct GroupWorkerQueueService {
    pub(super) router: Router,
}

impl GroupWorkerQueueService {
    /// Creates the gRPC service for a server.
    pub fn into_server(self) -> WorkerQueueServer<Self> {
        WorkerQueueServer::new(self).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }
}

#[tonic::async_trait]
impl WorkerQueue for GroupWorkerQueueService {
    type WorkStream = BoxStream<'static, Result<SchedulerMessage, Status>>;

    async fn work(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        match self.router.destination(request.metadata()).await? {
            Destination::Own(reign) => {
                let response = reign.worker_queue.work(request).await?;
                Ok(response.map(|responses| while_leading(reign, responses)))
            }
            Destination::Leader(leader, channel) => {
                let (metadata, extensions, messages) = request.into_parts();
                // Checked here too: the leader would read the worker's messages only after it.
                authorize(&extensions, Permission::Worker, &InstanceName::default())?;
                // A message that cannot be read ends the stream to the leader, as it does without forwarding.
                let messages = messages
                    .take_while(|message| std::future::ready(message.is_ok()))
                    .filter_map(|message| std::future::ready(message.ok()));
                let request = leader.request(messages, &metadata, &extensions, &self.router.identities);
                let mut client = WorkerQueueClient::new(channel).max_encoding_message_size(MAX_MESSAGE_BYTES);
                let response = client.work(request).await.map_err(passed_on)?;
                Ok(response.map(|responses| while_following(&leader, responses)))
            }
        }
    }
}
