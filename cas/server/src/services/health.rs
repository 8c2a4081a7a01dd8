//! Health checking protocol of gRPC (`grpc.health.v1`), for load balancers and Kubernetes.

use std::pin::Pin;

use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Largest request: a name of a service. Everybody may send one.
const MAX_REQUEST_BYTES: usize = 4 << 10;

/// The service for a tonic router, which reports that the server is serving, and the switch that ends this.
pub fn service() -> (ServingStatusSwitch, HealthServer<impl Health>) {
    let (sender, receiver) = watch::channel(ServingStatus::Serving);
    let service = HealthService { server: receiver };
    let service = HealthServer::new(service).max_decoding_message_size(MAX_REQUEST_BYTES);
    (ServingStatusSwitch(sender), service)
}

/// Switch of the status that the service reports.
#[derive(Debug)]
pub struct ServingStatusSwitch(watch::Sender<ServingStatus>);

impl ServingStatusSwitch {
    /// Reports that the server is about to end: load balancers then send new clients elsewhere. Watchers get this status
    /// and then the end of the stream, so that no watch delays the shutdown.
    pub fn stop(self) {
        // An error means that nobody listens.
        let _ = self.0.send(ServingStatus::NotServing);
    }
}

/// Health service that knows the server as a whole, under the name `""`. `tonic_health` is not used: it refuses to watch
/// an unknown service with `NOT_FOUND`, where `health.proto` requires `SERVICE_UNKNOWN` and a stream that stays open, and
/// it never ends a stream.
struct HealthService {
    server: watch::Receiver<ServingStatus>,
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !service.is_empty() {
            let message = format!("service {service:?} is not registered; \"\" is the server as a whole");
            return Err(Status::not_found(message));
        }
        Ok(Response::new(answer(*self.server.borrow())))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.into_inner().service.is_empty();
        let server = WatchStream::new(self.server.clone());
        // No service is registered later, so an unknown one stays unknown.
        let statuses = server.map(move |status| {
            if known {
                status
            } else {
                ServingStatus::ServiceUnknown
            }
        });
        Ok(Response::new(Box::pin(statuses.map(|status| Ok(answer(status))))))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
