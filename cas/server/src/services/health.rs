//! Whether the server serves: the health checking protocol of gRPC (`grpc.health.v1`), for load balancers and
//! Kubernetes.

use std::pin::Pin;

use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The service for a tonic router, which says "serving" for the server as a whole, and the means to change that.
pub fn service() -> (Serving, HealthServer<impl Health>) {
    let (sender, receiver) = watch::channel(ServingStatus::Serving);
    let service = HealthService { server: receiver };
    (Serving(sender), HealthServer::new(service))
}

/// Says that the server serves, until it is told to stop.
#[derive(Debug)]
pub struct Serving(watch::Sender<ServingStatus>);

impl Serving {
    /// Says that the server is about to end: what balances load sends new clients elsewhere. Who watches is told so, and
    /// nothing more, so that no watch holds up the end.
    pub fn stop(self) {
        // An error says that nobody listens.
        let _ = self.0.send(ServingStatus::NotServing);
    }
}

/// Knows the server as a whole, by the name `""`. It is not that of `tonic_health`, which refuses a watch of another
/// service with `NOT_FOUND`, where `health.proto` wants `SERVICE_UNKNOWN` and a stream that goes on, and never ends one.
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
        // No service is registered later, so what is not known stays so.
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
