//! gRPC connection with the client's credentials.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures::TryFutureExt as _;
use futures::future::MapOk;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use tonic::body::Body;
use tonic::transport::channel::ResponseFuture;
use tower::Service;

use super::credentials::Authorization;
use super::error_pages::without_error_page;
use super::renewal::Renewal;

/// gRPC connection to a server with the client's credentials. It is cheap to clone and reconnects by itself.
#[derive(Debug, Clone)]
pub struct Channel {
    inner: tonic::transport::Channel,
    authorization: Option<Authorization>,
    renewal: Option<Arc<Renewal>>,
    /// Number of the renewed connection that `inner` is.
    generation: u64,
}

impl Channel {
    pub(super) fn new(
        inner: tonic::transport::Channel,
        authorization: Option<Authorization>,
        renewal: Option<Arc<Renewal>>,
    ) -> Self {
        Self {
            inner,
            authorization,
            renewal,
            generation: 0,
        }
    }
}

/// Connection without credentials.
impl From<tonic::transport::Channel> for Channel {
    fn from(inner: tonic::transport::Channel) -> Self {
        Self::new(inner, None, None)
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = MapOk<ResponseFuture, fn(Response<Body>) -> Response<Body>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        if let Some(renewal) = &self.renewal
            && let Some(newer) = renewal.newer(&mut self.generation)
        {
            self.inner = newer;
        }
        Service::<Request<Body>>::poll_ready(&mut self.inner, context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(authorization) = &self.authorization {
            request
                .headers_mut()
                .insert(AUTHORIZATION, authorization.header());
        }
        self.inner.call(request).map_ok(without_error_page)
    }
}
