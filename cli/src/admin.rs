//! Admin endpoint for operators and orchestrators over plain HTTP: `/metrics`, `/livez`, `/readyz`, and services
//! over gRPC that only they call.
//!
//! A port of its own: it answers without authentication, so it belongs on an address that only they reach.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bitzel_access::{AccessLayer, Limits, LimitsLayer, incoming};
use bitzel_cas_server::Gauges;
use bitzel_cas_server::http_cache::{HttpVersions, serve_http};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;

use crate::command_error::CommandError;
use crate::readiness::Readiness;
use crate::telemetry::gather_metrics;

/// The format that Prometheus reads (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
const METRICS_TYPE: &str = "text/plain; version=0.0.4";

/// Limits of the admin endpoint: room for some probes, some Prometheus servers and KEDA, whose requests are small. They
/// are no settings, because nobody has a use for more.
fn limits() -> Limits {
    Limits {
        connections: 256,
        connections_per_address: 64,
        unauthenticated_connections: 128,
        authentication_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_mins(5),
        streams_per_connection: 64,
        streams_per_identity: 256,
        bytes_in_flight_per_identity: 4 << 20,
        request_idle_timeout: Duration::from_secs(10),
        response_bytes_per_connection: 8 << 20,
        response_bytes_per_identity: 16 << 20,
        response_bytes: 16 << 20,
    }
}

/// Listener of the admin endpoint.
pub(crate) struct AdminListener {
    listener: TcpListener,
    metrics: PrometheusHandle,
}

impl AdminListener {
    /// Listens, and from now on gathers metrics in this process.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Self, CommandError> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            CommandError::from(error).hint(format!("--admin {address}: is another process listening there?"))
        })?;
        Ok(Self {
            listener,
            metrics: gather_metrics()?,
        })
    }

    /// Address of the listener; with port 0 the system chose it.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the future is dropped: also while the process shuts down, which is when probes ask. `gauges` are
    /// called before every answer of `/metrics`; `/readyz` answers with `readiness`. `services` are served beside them.
    pub(crate) async fn serve(self, gauges: Vec<Gauges>, readiness: Readiness, services: Router) {
        let admin = Admin {
            metrics: self.metrics,
            gauges,
            readiness,
        };
        let limits = limits();
        let service = ServiceBuilder::new()
            .layer(AccessLayer::open())
            .layer(LimitsLayer::new(&limits))
            .service(services.merge(admin.router()));
        let connections = incoming(self.listener, None, &limits);
        serve_http(
            service,
            &limits,
            HttpVersions::Detected,
            connections,
            CancellationToken::new(),
        )
        .await;
    }
}

/// State of the admin endpoint.
struct Admin {
    metrics: PrometheusHandle,
    gauges: Vec<Gauges>,
    /// Conditions of `/readyz`. While they do not hold, orchestrators send clients elsewhere.
    readiness: Readiness,
}

impl Admin {
    fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .with_state(Arc::new(self))
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    for publish in &admin.gauges {
        publish();
    }
    ([(header::CONTENT_TYPE, METRICS_TYPE)], admin.metrics.render())
}

async fn ready(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match admin.readiness.check().await {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
    }
}
