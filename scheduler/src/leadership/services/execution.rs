//! `Execution` service of a server in a group.

use bitzel_proto::google::longrunning::Operation;
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::reapi::execution_server::{Execution, ExecutionServer};
use bitzel_proto::reapi::{ExecuteRequest, WaitExecutionRequest};
use bitzel_rpc::endpoint::Channel;
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::leadership::router::{
    Destination, MAX_LEADER_WAIT, Router, answer, is_leader_gone, while_following,
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

type OperationStream = BoxStream<'static, Result<Operation, Status>>;

#[tonic::async_trait]
impl Execution for GroupExecutionService {
    type ExecuteStream = OperationStream;
    type WaitExecutionStream = OperationStream;

    async fn execute(&self, request: Request<ExecuteRequest>) -> Result<Response<OperationStream>, Status> {
        let deadline = Instant::now() + MAX_LEADER_WAIT;
        let (metadata, extensions, message) = request.into_parts();
        loop {
            match self.router.destination(&metadata, deadline).await? {
                Destination::Own(reign) => {
                    let request = Request::from_parts(metadata, extensions, message);
                    let response = reign.execution.execute(request).await;
                    return answer(reign, response);
                }
                Destination::Leader(leader, channel) => {
                    let identities = &self.router.identities;
                    let request = leader.request(message.clone(), &metadata, &extensions, identities);
                    match leader.answer(client(channel).execute(request)).await {
                        Ok(response) => {
                            return Ok(response.map(|responses| while_following(&leader, responses)));
                        }
                        // The client would do the same: an equal request joins the one that was accepted.
                        Err(status) if is_leader_gone(&leader, &status) => {
                            self.router.another_leader(&leader).await;
                        }
                        Err(status) => return Err(status),
                    }
                }
            }
        }
    }

    async fn wait_execution(
        &self,
        request: Request<WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let deadline = Instant::now() + MAX_LEADER_WAIT;
        let (metadata, extensions, message) = request.into_parts();
        loop {
            match self.router.destination(&metadata, deadline).await? {
                Destination::Own(reign) => {
                    let request = Request::from_parts(metadata, extensions, message);
                    let response = reign.execution.wait_execution(request).await;
                    return answer(reign, response);
                }
                Destination::Leader(leader, channel) => {
                    let identities = &self.router.identities;
                    let request = leader.request(message.clone(), &metadata, &extensions, identities);
                    match leader.answer(client(channel).wait_execution(request)).await {
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

fn client(channel: Channel) -> ExecutionClient<Channel> {
    ExecutionClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}
