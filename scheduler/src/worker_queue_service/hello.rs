//! First message of a worker.

use bitzel_proto::reapi::Platform;
use bitzel_proto::worker::{Hello, WorkerMessage, worker_message};
use futures::{Stream, StreamExt};
use tonic::Status;

use super::MAX_SLOTS;
use crate::error::ExecutionError;

/// Maximum length of the names of a worker and of its pool.
const MAX_NAME_BYTES: usize = 256;
/// Lengths of the secret of a worker's instance.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 16..=64;
/// Maximum number of platform properties of a worker. More than an Action may require: a worker offers all its roots.
const MAX_PLATFORM_PROPERTIES: usize = 1024;
/// Maximum length of all names and values of a worker's platform properties.
const MAX_PLATFORM_BYTES: usize = 256 << 10;

/// Reads the first message of a stream, which must be a valid Hello.
pub(super) async fn read_hello(
    inbound: &mut (impl Stream<Item = Result<WorkerMessage, Status>> + Unpin),
) -> Result<Hello, ExecutionError> {
    let first = inbound.next().await.and_then(Result::ok);
    match first.and_then(|message| message.message) {
        Some(worker_message::Message::Hello(hello)) => match defect(&hello) {
            Some(defect) => Err(ExecutionError::WorkerProtocol(defect)),
            None => Ok(hello),
        },
        _ => Err(ExecutionError::WorkerProtocol(
            "the first message of the stream must be Hello",
        )),
    }
}

/// Defect of a Hello. Names go to the journal, logs and terminals: PostgreSQL refuses a text with NUL.
fn defect(hello: &Hello) -> Option<&'static str> {
    let has_control = |name: &str| name.chars().any(char::is_control);
    match hello {
        hello if hello.worker_name.is_empty() => Some("Hello.worker_name is empty"),
        hello if hello.worker_name.len() > MAX_NAME_BYTES => {
            Some("Hello.worker_name is longer than 256 bytes")
        }
        hello if has_control(&hello.worker_name) => Some("Hello.worker_name has control characters"),
        // The server ends a name with the credentials so.
        hello if hello.worker_name.ends_with(')') => Some("Hello.worker_name ends with a parenthesis"),
        hello
            if !hello.instance_secret.is_empty() && !SECRET_BYTES.contains(&hello.instance_secret.len()) =>
        {
            Some("Hello.instance_secret does not have 16 to 64 bytes")
        }
        hello if hello.pool.len() > MAX_NAME_BYTES => Some("Hello.pool is longer than 256 bytes"),
        hello if has_control(&hello.pool) => Some("Hello.pool has control characters"),
        hello if hello.slots == 0 || hello.slots > MAX_SLOTS => Some("Hello.slots is not between 1 and 1024"),
        hello if hello.platform.as_ref().is_some_and(is_too_large) => {
            Some("Hello.platform has too many or too long properties")
        }
        _ => None,
    }
}

fn is_too_large(platform: &Platform) -> bool {
    let properties = platform.properties.iter();
    let bytes: usize = properties
        .map(|property| property.name.len() + property.value.len())
        .sum();
    platform.properties.len() > MAX_PLATFORM_PROPERTIES || bytes > MAX_PLATFORM_BYTES
}
