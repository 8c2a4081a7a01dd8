//! In-memory trace collector: OTLP over gRPC.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::s3_server::single_worker_runtime;

/// A received span.
#[derive(Debug, Clone)]
pub struct CollectedSpan {
    /// Id of the span.
    pub id: Vec<u8>,
    /// Id of the parent; empty for the root of a trace.
    pub parent: Vec<u8>,
    /// Id of the trace.
    pub trace: Vec<u8>,
    /// Name of the span.
    pub name: String,
    /// Attributes of type string.
    pub attributes: Vec<(String, String)>,
}

/// A running collector. Stopped when it is dropped.
pub struct Collector {
    _runtime: Runtime,
    address: SocketAddr,
    spans: Spans,
}

type Spans = Arc<Mutex<Vec<CollectedSpan>>>;

struct Service(Spans);

impl Collector {
    /// Starts on a free port of this machine.
    pub fn start() -> Self {
        let runtime = single_worker_runtime();
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a free port");
        let address = listener.local_addr().expect("an address");
        let spans = Spans::default();
        let service = TraceServiceServer::new(Service(Arc::clone(&spans)));
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        Self {
            _runtime: runtime,
            address,
            spans,
        }
    }

    /// The value of `--otlp-endpoint` for a program.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All spans received so far. Programs send the last ones before they end.
    pub fn spans(&self) -> Vec<CollectedSpan> {
        self.spans.lock().expect("nobody panics with the lock").clone()
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request
            .into_inner()
            .resource_spans
            .into_iter()
            .flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans).map(|span| CollectedSpan {
            id: span.span_id,
            parent: span.parent_span_id,
            trace: span.trace_id,
            name: span.name,
            attributes: span
                .attributes
                .into_iter()
                .filter_map(|attribute| match attribute.value?.value? {
                    Value::StringValue(value) => Some((attribute.key, value)),
                    _ => None,
                })
                .collect(),
        });
        self.0.lock().expect("nobody panics with the lock").extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}
