//! External scaler of a server in a group.

use bitzel_proto::keda::external_scaler_server::{ExternalScaler, ExternalScalerServer};
use bitzel_proto::keda::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, ScaledObjectRef,
};
use futures::stream::BoxStream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::leadership::group::Role;
use crate::leadership::router::not_leading;
use crate::scaler_service::ScalerService;

/// External scaler of a server in a group. It is on the admin port, which servers do not know of each other, so one that
/// does not lead answers `UNAVAILABLE`, and KEDA asks again.
#[derive(Clone)]
pub struct GroupScalerService {
    pub(in crate::leadership) role: watch::Receiver<Role>,
}

impl GroupScalerService {
    /// Creates the gRPC service.
    pub fn into_server(self) -> ExternalScalerServer<Self> {
        ExternalScalerServer::new(self)
    }

    fn own(&self) -> Result<ScalerService, Status> {
        match &*self.role.borrow() {
            Role::Leads(reign) if reign.tenure.is_valid() => Ok(reign.scaler.clone()),
            _ => Err(not_leading()),
        }
    }
}

#[tonic::async_trait]
impl ExternalScaler for GroupScalerService {
    type StreamIsActiveStream = BoxStream<'static, Result<IsActiveResponse, Status>>;

    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        self.own()?.is_active(request).await
    }

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        self.own()?.stream_is_active(request).await
    }

    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        self.own()?.get_metric_spec(request).await
    }

    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        self.own()?.get_metrics(request).await
    }
}
