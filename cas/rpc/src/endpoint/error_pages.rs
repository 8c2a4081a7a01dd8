//! Responses that are no gRPC.

use http::{Response, StatusCode};
use tonic::Status;
use tonic::body::Body;

/// Takes the text from a response with an error status of HTTP. Else tonic decodes the text as a message, and says
/// `INTERNAL` about it instead of the code that the status has in gRPC: `UNIMPLEMENTED` for 404, as servers answer that lack
/// a service, and `UNAVAILABLE` for 502 to 504, as proxies answer.
pub(super) fn without_error_page(response: Response<Body>) -> Response<Body> {
    let is_grpc = response.status() == StatusCode::OK || response.headers().contains_key(Status::GRPC_STATUS);
    if is_grpc {
        return response;
    }
    response.map(|_| Body::empty())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use tonic::Code;
    use tonic_prost::ProstCodec;
    use tower::service_fn;

    use super::*;

    /// The code that a client gets for this response.
    async fn code(status: u16) -> Code {
        let service = service_fn(move |_: http::Request<Body>| async move {
            let text = http_body_util::Full::new(Bytes::from_static(b"No route for /some.Service/Method"));
            let response = Response::builder().status(status).body(Body::new(text)).unwrap();
            Ok::<_, Infallible>(without_error_page(response))
        });
        let mut client = tonic::client::Grpc::new(service);
        client.ready().await.unwrap();
        let request = tonic::Request::new(());
        let path = http::uri::PathAndQuery::from_static("/some.Service/Method");
        let codec = ProstCodec::<(), ()>::default();
        client.unary(request, path, codec).await.unwrap_err().code()
    }

    #[tokio::test]
    async fn error_pages_have_the_codes_of_their_status() {
        assert_eq!(code(404).await, Code::Unimplemented);
        assert_eq!(code(403).await, Code::PermissionDenied);
        assert_eq!(code(502).await, Code::Unavailable);
    }
}
