//! External scaler of a server in a group.
//!
//! KEDA reaches any server of the group by its admin port, which the servers do not know of each other. So one that does
//! not lead asks the leader on the port for clients, where [`ForwardedScalerService`] answers nobody else.

use std::time::Duration;

use bitzel_access::Identity;
use bitzel_proto::keda::external_scaler_client::ExternalScalerClient;
use bitzel_proto::keda::external_scaler_server::{ExternalScaler, ExternalScalerServer};
use bitzel_proto::keda::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, ScaledObjectRef,
};
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use tonic::{Request, Response, Status};

use crate::leadership::group::Role;
use crate::leadership::leader_connection::LeaderConnection;
use crate::leadership::router::{Destination, Router, not_leading, passed_on};
use crate::scaler_service::{self, ScalerService};

/// Maximum time that a question waits for a leader. KEDA asks again at its polling interval.
const MAX_LEADER_WAIT: Duration = Duration::from_secs(2);
/// Metadata with the proof that a server of the group asks. Not `authorization`: it is not the right of a caller.
const SERVER_PROOF: &str = "bitzel-server-proof";

/// External scaler of a server in a group, for its admin port. One that does not lead asks the leader.
#[derive(Clone)]
pub struct GroupScalerService {
    pub(in crate::leadership) router: Router,
}

impl GroupScalerService {
    /// Creates the gRPC service.
    pub fn into_server(self) -> ExternalScalerServer<Self> {
        ExternalScalerServer::new(self)
    }

    async fn destination(&self, metadata: &MetadataMap) -> Result<Destination, Status> {
        let deadline = Instant::now() + MAX_LEADER_WAIT;
        self.router.destination(metadata, deadline).await
    }

    /// Question to the leader, with the proof that a server asks it.
    fn question<T>(&self, message: T, leader: &LeaderConnection) -> Result<Request<T>, Status> {
        let proof = self
            .router
            .identities
            .authorization(&Identity::anonymous(), leader.epoch());
        let proof = proof.and_then(|proof| proof.parse::<AsciiMetadataValue>().ok());
        let mut request = Request::new(message);
        request.set_timeout(MAX_LEADER_WAIT);
        request
            .metadata_mut()
            .insert(SERVER_PROOF, proof.ok_or_else(not_leading)?);
        Ok(request)
    }
}

#[tonic::async_trait]
impl ExternalScaler for GroupScalerService {
    type StreamIsActiveStream = BoxStream<'static, Result<IsActiveResponse, Status>>;

    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        match self.destination(request.metadata()).await? {
            Destination::Own(reign) => reign.scaler.is_active(request).await,
            Destination::Leader(leader, channel) => {
                let question = self.question(request.into_inner(), &leader)?;
                let mut client = ExternalScalerClient::new(channel);
                leader.answer(client.is_active(question)).await.map_err(passed_on)
            }
        }
    }

    async fn stream_is_active(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        Err(scaler_service::no_stream())
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        // The answer depends on the question alone.
        scaler_service::metric_spec(&request.into_inner())
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        match self.destination(request.metadata()).await? {
            Destination::Own(reign) => reign.scaler.get_metrics(request).await,
            Destination::Leader(leader, channel) => {
                let question = self.question(request.into_inner(), &leader)?;
                let mut client = ExternalScalerClient::new(channel);
                leader
                    .answer(client.get_metrics(question))
                    .await
                    .map_err(passed_on)
            }
        }
    }
}

/// External scaler of the leader on the port for clients. It answers the other servers of the group alone, which prove
/// themselves by the key that they share.
#[derive(Clone)]
pub struct ForwardedScalerService {
    pub(in crate::leadership) router: Router,
}

impl ForwardedScalerService {
    /// Creates the gRPC service.
    pub fn into_server(self) -> ExternalScalerServer<Self> {
        ExternalScalerServer::new(self)
    }

    /// The scaler of this server's queue, for a question of another server.
    fn scaler(&self, metadata: &MetadataMap) -> Result<ScalerService, Status> {
        let proof = metadata.get(SERVER_PROOF).and_then(|proof| proof.to_str().ok());
        self.router.identities.check_server(proof)?;
        match &*self.router.role.borrow() {
            Role::Leads(reign) if reign.tenure.is_valid() => Ok(reign.scaler.clone()),
            _ => Err(not_leading()),
        }
    }
}

#[tonic::async_trait]
impl ExternalScaler for ForwardedScalerService {
    type StreamIsActiveStream = BoxStream<'static, Result<IsActiveResponse, Status>>;

    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        self.scaler(request.metadata())?.is_active(request).await
    }

    async fn stream_is_active(
        &self,
        _: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        Err(scaler_service::no_stream())
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        self.scaler(request.metadata())?.get_metric_spec(request).await
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        self.scaler(request.metadata())?.get_metrics(request).await
    }
}
