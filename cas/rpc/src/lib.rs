//! gRPC connections: channels of clients, tuning of servers, and the telemetry of calls.
//!
//! * [`endpoint`] connects clients with their credentials, and sets servers up to match.
//! * [`telemetry`] observes calls on both sides: spans, log lines and metrics.

pub mod crypto_provider;
pub mod endpoint;
pub mod error;
pub mod secret;
pub mod telemetry;
pub mod watched_files;

pub use error::Error;
pub use secret::Secret;
pub use watched_files::WatchedFiles;
