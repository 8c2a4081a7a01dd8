//! Access control in front of the services.

mod bytes_in_flight;
mod key_server;
mod requests;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use bitzel_access::{AccessConfiguration, Limits, LimitsLayer, ServerAccess, TlsOptions, incoming};
use bitzel_cas::{ActionCache, BlobStore, MemoryActionCache, MemoryBlobStore};
use bitzel_proto::InstanceName;

fn instance(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}

/// Advances the clock of tokio, between real requests.
async fn advance(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}
