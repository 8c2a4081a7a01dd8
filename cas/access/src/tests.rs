mod key_urls;
mod passwords;
mod policies;
mod replaced_rules;
mod tokens;

use std::time::Duration;

use bitzel_proto::InstanceName;

use super::*;

/// Advances the clock of tokio, between real requests.
async fn advance(by: Duration) {
    tokio::time::pause();
    tokio::time::advance(by).await;
    tokio::time::resume();
}

fn instance(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}
