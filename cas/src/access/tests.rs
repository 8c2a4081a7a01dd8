mod bytes_in_flight;
mod key_urls;
mod passwords;
mod policies;
mod requests;
mod tls;
mod tokens;

use bitzel_proto::InstanceName;

use super::*;

fn instance(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}
