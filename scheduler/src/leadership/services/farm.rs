//! Farm service of a server in a group.

use bitzel_proto::farm::farm_client::FarmClient;
use bitzel_proto::farm::farm_server::{Farm, FarmServer};
use bitzel_proto::farm::{DrainWorkersRequest, DrainWorkersResponse, GetFarmRequest, GetFarmResponse};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::leadership::router::{Destination, MAX_LEADER_WAIT, Router, passed_on};
use crate::worker_queue_service::MAX_MESSAGE_BYTES;

/// Farm service of a server in a group.
#[derive(Clone)]
pub struct GroupFarmService {
    pub(in crate::leadership) router: Router,
}

impl GroupFarmService {
    /// Creates the gRPC service for a server.
    pub fn into_server(self) -> FarmServer<Self> {
        FarmServer::new(self)
    }
}

#[tonic::async_trait]
impl Farm for GroupFarmService {
    async fn get_farm(&self, request: Request<GetFarmRequest>) -> Result<Response<GetFarmResponse>, Status> {
        match self
            .router
            .destination(request.metadata(), Instant::now() + MAX_LEADER_WAIT)
            .await?
        {
            Destination::Own(reign) => reign.farm.get_farm(request).await,
            Destination::Leader(leader, channel) => {
                let (metadata, extensions, message) = request.into_parts();
                let request = leader.request(message, &metadata, &extensions, &self.router.identities);
                let mut client = FarmClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
                leader.answer(client.get_farm(request)).await.map_err(passed_on)
            }
        }
    }

    async fn drain_workers(
        &self,
        request: Request<DrainWorkersRequest>,
    ) -> Result<Response<DrainWorkersResponse>, Status> {
        match self
            .router
            .destination(request.metadata(), Instant::now() + MAX_LEADER_WAIT)
            .await?
        {
            Destination::Own(reign) => reign.farm.drain_workers(request).await,
            Destination::Leader(leader, channel) => {
                let (metadata, extensions, message) = request.into_parts();
                let request = leader.request(message, &metadata, &extensions, &self.router.identities);
                let mut client = FarmClient::new(channel);
                leader
                    .answer(client.drain_workers(request))
                    .await
                    .map_err(passed_on)
            }
        }
    }
}
