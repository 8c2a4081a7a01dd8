//! Status of requests that are no messages.

use http::{HeaderValue, Response};
use tonic::{Code, Status};

/// Starts of the messages with which tonic says `INTERNAL` about what a client sent. Other uses of compression without an
/// agreement stay `INTERNAL`, as the specification of gRPC demands.
const MALFORMED: [&str; 4] = [
    "failed to decode Protobuf message",
    "Unexpected EOF decoding stream",
    "Missing request message",
    "Error decompressing",
];

/// Says `INVALID_ARGUMENT` instead of `INTERNAL` about a request that is no message: the fault is the client's, it should not
/// try again, and nobody should be alarmed.
pub fn malformed_requests<B>(mut response: Response<B>) -> Response<B> {
    let headers = response.headers_mut();
    let is_internal = headers.get(Status::GRPC_STATUS).is_some_and(|code| code == "13");
    if is_internal
        && let Some(status) = Status::from_header_map(headers)
        && MALFORMED.iter().any(|start| status.message().starts_with(start))
    {
        let code = HeaderValue::from(Code::InvalidArgument as i32);
        headers.insert(Status::GRPC_STATUS, code);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_other_statuses_as_they_are() {
        for (status, code) in [
            (Status::internal("failed to decode Protobuf message: x"), "3"),
            (Status::internal("the disk failed"), "13"),
            (Status::not_found("Missing request message"), "5"),
        ] {
            let response = malformed_requests(status.into_http::<()>());
            assert_eq!(response.headers()[Status::GRPC_STATUS], code);
        }
    }
}
