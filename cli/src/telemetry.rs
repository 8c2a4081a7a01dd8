//! Logs, traces and metrics of this process. Libraries use only the facades (`tracing`, `metrics`); this module connects
//! them to outputs.

use std::fmt::{self, Write as _};
use std::io;
use std::time::Duration;

use bitzel_cas::notice::NOTICE;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer};

use crate::arguments::{LogFormat, TelemetryArguments};
use crate::command_error::CommandError;
use crate::console;

/// Filter for exported spans. `--log` is only for log lines.
const TRACE_FILTER: &str = "warn,bitzel=info,bitzel_cas=info,bitzel_scheduler=info,bitzel_worker=info";
/// Filter for the log lines of a service: warnings, and the bounds of a worker at its start.
const SERVICE_FILTER: &str = "warn,bitzel_worker::bounds=info";
/// Time that the end of a command waits for a collector that does not answer.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Upper bounds of histogram buckets, in seconds: from a look-up in memory to a long task.
const BUCKET_SECONDS: [f64; 16] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 600.0, 3600.0,
];
/// Interval at which the samples of histograms are summed up. Without it, a server that nobody scrapes would grow.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Running export of traces.
#[must_use = "spans that are not exported yet are lost without it"]
pub(crate) struct Telemetry {
    traces: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Starts logs, and traces if there is a collector. Must be called within the runtime.
    ///
    /// A service logs warnings by default. Any other command shows only what its user must know ([`NOTICE`], errors), as
    /// messages. `--log` turns log lines on for both.
    pub(crate) fn start(arguments: &TelemetryArguments, is_service: bool) -> Result<Self, CommandError> {
        let traces = arguments
            .otlp_endpoint
            .as_deref()
            .map(tracer_provider)
            .transpose()?;
        let exported = traces.as_ref().map(|provider| {
            tracing_opentelemetry::layer()
                .with_tracer(provider.tracer("bitzel"))
                .with_filter(EnvFilter::new(TRACE_FILTER))
        });
        let filter = match &arguments.log {
            Some(filter) => Some(log_filter(filter)?),
            None => is_service.then(|| EnvFilter::new(SERVICE_FILTER)),
        };
        let messages = filter
            .is_none()
            .then(|| Messages.with_filter(filter_fn(is_message)));
        let filter = filter.unwrap_or_else(|| EnvFilter::new("off"));
        let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr);
        let lines = match arguments.log_format {
            LogFormat::Text => lines.boxed(),
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        tracing_subscriber::registry()
            .with(exported)
            .with(lines.with_filter(filter))
            .with(messages)
            .init();
        Ok(Self { traces })
    }

    /// Exports the remaining spans. Blocks for at most [`EXPORT_TIMEOUT`].
    pub(crate) fn end(self) {
        if let Some(Err(error)) = self
            .traces
            .map(|provider| provider.shutdown_with_timeout(EXPORT_TIMEOUT))
        {
            tracing::warn!(%error, "the last spans did not reach the collector");
        }
    }
}

fn log_filter(text: &str) -> Result<EnvFilter, CommandError> {
    EnvFilter::builder().parse(text).map_err(|error| {
        CommandError::from(error)
            .context(format!("--log {text} is not a filter"))
            .hint(
                "write a level (error, warn, info, debug, trace), or levels by module: warn,bitzel_cas=debug",
            )
    })
}

/// True for events that the user of a command must see although log lines are off.
fn is_message(metadata: &Metadata<'_>) -> bool {
    metadata.target() == NOTICE
        || (*metadata.level() == Level::ERROR && metadata.target().starts_with("bitzel"))
}

/// Prints events as messages for people: `warning: TEXT (name: value, …)`.
struct Messages;

impl<S: Subscriber> Layer<S> for Messages {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        let Message { text, fields } = message;
        let fields = if fields.is_empty() {
            fields
        } else {
            format!(" ({fields})")
        };
        match *event.metadata().level() {
            Level::ERROR => console::print(&format!("error: {text}{fields}")),
            _ => console::warn(&format!("{text}{fields}")),
        }
    }
}

/// Text and fields of an event.
#[derive(Default)]
struct Message {
    text: String,
    fields: String,
}

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, format_args!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, format_args!("{value}"));
    }
}

impl Message {
    fn record(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if field.name() == "message" {
            self.text = value.to_string();
            return;
        }
        let separator = if self.fields.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        write!(self.fields, "{separator}{}: {value}", field.name()).ok();
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

/// Starts to collect the metrics of this process, for [`PrometheusHandle::render`]. Must be called once, within the
/// runtime.
pub(crate) fn gather_metrics() -> Result<PrometheusHandle, CommandError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &BUCKET_SECONDS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}
