//! Logs, traces and metrics of this process. Libraries only speak to the facades (`tracing`, `metrics`); here is
//! decided where it all goes.

use std::io;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::arguments::{LogFormat, TelemetryArguments};
use crate::command_error::CommandError;

/// What leaves this process as spans. `BITZEL_LOG` only says what is logged.
const TRACED: &str = "warn,bitzel=info,bitzel_cas=info,bitzel_scheduler=info,bitzel_worker=info";
/// How long the end of a command may wait for a collector that does not answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper bounds in seconds: from a look-up in memory to a long task.
const SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0,
];
/// How often what histograms have gathered is summed up. Without it, a server that nobody scrapes would grow.
const UPKEEP: Duration = Duration::from_secs(5);

/// Keeps the export of traces going.
#[must_use = "spans that are not exported yet are lost without it"]
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts logs, and traces where a collector is named. Has to be called within the runtime.
    pub(crate) fn start(arguments: &TelemetryArguments) -> Result<Self, CommandError> {
        let traces = arguments
            .otlp_endpoint
            .as_deref()
            .map(tracer_provider)
            .transpose()?;
        let exported = traces.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("bitzel"))
                .with_filter(EnvFilter::new(TRACED))
        });
        let filter = EnvFilter::try_from_env("BITZEL_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
        let lines = match arguments.log_format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry()
            .with(exported)
            .with(lines.with_filter(filter))
            .init();
        Ok(Self { traces })
    }

    /// Exports what is left. Blocks for [`EXPORT_TIMEOUT`] at most.
    pub(crate) fn end(self) {
        if let Some(Err(error)) = self
            .traces
            .map(|provider| provider.shutdown_with_timeout(EXPORT_TIMEOUT))
        {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

fn tracer_provider(endpoint: &str) -> Result<SdkTracerProvider, CommandError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()
        .map_err(|error| {
            CommandError::from(error).hint(format!(
                "--otlp-endpoint {endpoint}: write the OTLP/gRPC address of a collector, http://host:4317"
            ))
        })?;
    global::set_text_map_propagator(TraceContextPropagator::new());
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name("bitzel").build())
        .build();
    global::set_tracer_provider(provider.clone());
    Ok(provider)
}

/// Starts gathering metrics in this process, for [`PrometheusHandle::render`]. Has to be called within the runtime,
/// once.
pub(crate) fn gather_metrics() -> Result<PrometheusHandle, CommandError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}
