//! Whether the server serves: the health checking protocol of gRPC (`grpc.health.v1`), for load balancers and
//! Kubernetes.

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

/// The service for a tonic router, which says "serving" for the server as a whole, and the means to change that.
pub async fn service() -> (HealthReporter, HealthServer<impl Health>) {
    let reporter = HealthReporter::new();
    reporter.set_service_status("", ServingStatus::Serving).await;
    let service = HealthService::from_health_reporter(reporter.clone());
    (reporter, HealthServer::new(service))
}

/// Says that the server is about to end: what balances load sends new clients elsewhere.
pub async fn stop_serving(reporter: &HealthReporter) {
    reporter.set_service_status("", ServingStatus::NotServing).await;
}
