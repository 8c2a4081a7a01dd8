//! `WorkerQueue` service of a server in a group.

use bitzel_access::{Permission, authorize};
use bitzel_proto::InstanceName;
use bitzel_proto::worker::worker_queue_client::WorkerQueueClient;
use bitzel_proto::worker::worker_queue_server::{WorkerQueue, WorkerQueueServer};
use bitzel_proto::worker::{SchedulerMessage, WorkerMessage};
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use crate::leadership::leader_connection::is_forwarded;
use crate::leadership::lent_messages::LentMessages;
use crate::leadership::router::{
    Destination, MAX_LEADER_WAIT, Router, is_leader_gone, not_leading, passed_on, while_following,
    while_leading,
};
use crate::operation_queue::Route;
use crate::worker_queue_service::MAX_MESSAGE_BYTES;

/// `WorkerQueue` service of a server in a group.
#[derive(Clone)]
pub struct GroupWorkerQueueService {
    pub(in crate::leadership) router: Router,
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
        let deadline = Instant::now() + MAX_LEADER_WAIT;
        let (metadata, extensions, messages) = request.into_parts();
        // The leader checks it too, but would let the worker wait for a leader first.
        authorize(&extensions, Permission::Worker, &InstanceName::default())?;
        let mut messages = Some(messages);
        let lent = LentMessages::default();
        loop {
            match self.router.destination(&metadata, deadline).await? {
                Destination::Own(reign) => {
                    let messages = messages
                        .take()
                        .or_else(|| lent.take_back())
                        .ok_or_else(not_leading)?;
                    let route = if is_forwarded(&metadata) {
                        Route::Forwarded
                    } else {
                        Route::Direct
                    };
                    let messages = reign.worker_queue.open(messages, route, &extensions);
                    return Ok(Response::new(while_leading(reign, messages)));
                }
                Destination::Leader(leader, channel) => {
                    if let Some(messages) = messages.take() {
                        lent.lend(messages);
                    }
                    let identities = &self.router.identities;
                    let request = leader.request(lent.clone(), &metadata, &extensions, identities);
                    let client = WorkerQueueClient::new(channel);
                    let mut client = client.max_encoding_message_size(MAX_MESSAGE_BYTES);
                    match leader.answer(client.work(request)).await {
                        Ok(response) => {
                            return Ok(response.map(|responses| while_following(&leader, responses)));
                        }
                        Err(status) if is_leader_gone(&leader, &status) && lent.is_whole() => {
                            self.router.another_leader(&leader).await;
                        }
                        Err(status) => return Err(passed_on(status)),
                    }
                }
            }
        }
    }
}
