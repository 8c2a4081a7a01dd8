//! Telemetry of requests: one span, one log line and a few metrics for each, on server and client side.
//!
//! Metrics go through the facade of the `metrics` crate and cost next to nothing where no recorder is installed, as in
//! a build with an embedded server. `docs/operations.md` lists every metric.

mod called_method;
mod execution_outcome;
mod http_request;
mod observed_body;
mod observing_layer;
mod request_metadata;
mod trace_context;

pub use execution_outcome::execution_outcome;
pub use observing_layer::{Observing, ObservingLayer};
pub use request_metadata::{REQUEST_METADATA, request_metadata};
pub use trace_context::continue_trace;
pub use trace_context::pass_trace_on;

#[cfg(test)]
mod tests;
