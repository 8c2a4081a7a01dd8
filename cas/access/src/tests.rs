mod key_urls;
mod passwords;
mod policies;
mod tokens;

use bitzel_proto::InstanceName;

use super::*;

fn instance(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}
