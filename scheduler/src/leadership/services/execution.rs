//! `Execution` service of a server in a group.

use bitzel_proto::google::longrunning::Operation;
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::reapi::execution_server::{Execution, ExecutionServer};
use bitzel_proto::reapi::{ExecuteRequest, WaitExecutionRequest};
use bitzel_rpc::endpoint::Channel;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::execution_service::ExecutionService;
use crate::leadership::leader_connection::is_forwarded;
use crate::leadership::router::{
    Destination, MAX_LEADER_WAIT, Router, answer, is_leader_gone, not_leading, while_following,
};
use crate::worker_queue_service::MAX_MESSAGE_BYTES;

/// `Execution` service of a server in a group.
#[derive(Clone)]
pub struct GroupExecutionService {
    pub(in crate::leadership) router: Router,
}

impl GroupExecutionService {
    /// Creates the gRPC service for a server.
    pub fn into_server(self) -> ExecutionServer<Self> {
        ExecutionServer::new(self)
    }
}

impl GroupExecutionService {
    /// Answers a call by the queue of this server, or by that of the leader. If the leader is gone, be it this server
    /// itself, the call is repeated at the next one.
    async fn follow<T: Clone + Send + 'static>(
        &self,
        request: Request<T>,
        own: impl Fn(ExecutionService, Request<T>) -> Answer<OperationStream> + Send + Sync,
        forward: impl Fn(ExecutionClient<Channel>, Request<T>) -> Answer<Streaming<Operation>> + Send + Sync,
    ) -> Result<Response<OperationStream>, Status> {
        let deadline = Instant::now() + MAX_LEADER_WAIT;
        let (metadata, extensions, message) = request.into_parts();
        loop {
            match self.router.destination(&metadata, deadline).await? {
                Destination::Own(reign) => {
                    let request = Request::from_parts(metadata.clone(), extensions.clone(), message.clone());
                    let response = own(reign.execution.clone(), request).await;
                    if let Some(response) = answer(reign, response) {
                        return response;
                    }
                    if is_forwarded(&metadata) {
                        return Err(not_leading());
                    }
                }
                Destination::Leader(leader, channel) => {
                    let identities = &self.router.identities;
                    let request = leader.request(message.clone(), &metadata, &extensions, identities);
                    match leader.answer(forward(client(channel), request)).await {
                        Ok(response) => {
                            return Ok(response.map(|responses| while_following(&leader, responses)));
                        }
                        Err(status) if is_leader_gone(&leader, &status) => {
                            self.router.another_leader(&leader).await;
                        }
                        Err(status) => return Err(status),
                    }
                }
            }
        }
    }
}

type OperationStream = BoxStream<'static, Result<Operation, Status>>;
type Answer<T> = BoxFuture<'static, Result<Response<T>, Status>>;

#[tonic::async_trait]
impl Execution for GroupExecutionService {
    type ExecuteStream = OperationStream;
    type WaitExecutionStream = OperationStream;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<OperationStream>, Status> {
        // A client would repeat it too: an equal request joins the one that was accepted.
        self.follow(
            request,
            |own, request| async move { own.execute(request).await }.boxed(),
            |mut leader, request| async move { leader.execute(request).await }.boxed(),
        )
        .await
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        self.follow(
            request,
            |own, request| async move { own.wait_execution(request).await }.boxed(),
            |mut leader, request| async move { leader.wait_execution(request).await }.boxed(),
        )
        .await
    }
}

fn client(channel: Channel) -> ExecutionClient<Channel> {
    ExecutionClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}
