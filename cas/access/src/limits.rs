//! Per-identity rate and concurrency limits.

mod message_memory;
mod metered_request;
mod reserved_response;
mod response_budget;
mod response_memory;

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use metrics::counter;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tower::{BoxError, Layer, Service};

use self::metered_request::MeteredRequest;
use self::reserved_response::ReservedResponse;
use self::response_memory::Budgets;
use crate::access_layer::RefusalBody;
use crate::caller::Caller;
use crate::incoming::{MAX_CALLS_WITHOUT_PERMISSION, OpenCall, PeerInfo};
use crate::required_permission::{Required, required_permission};

pub use self::message_memory::{HeldMessage, MessageMemory};
pub use self::response_budget::ResponseBudget;
pub use self::response_memory::ResponseMemory;

/// Name that stands for all callers of methods that need no permission. No identity is called so.
const WITHOUT_PERMISSION: &str = "";

/// Bytes that one permit stands for: a semaphore cannot count the bytes of many large messages.
const BYTES_PER_PERMIT: u64 = 1 << 10;

/// `[limits]`: limits per connection and per identity.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Maximum number of connections of all clients together, at each port. Others are closed.
    pub connections: usize,
    /// Maximum number of connections of one address, at each port. Others are closed. IPv6 addresses that share their
    /// first 64 bits count as one.
    pub connections_per_address: usize,
    /// Maximum number of connections on which nobody has authenticated, at each port. Beyond it, the oldest one is
    /// closed, so that the rest of `connections` is kept for clients that authenticate.
    pub unauthenticated_connections: usize,
    /// Time from accepting a connection to the first permitted call on it, handshakes included. Then it is closed.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("default" = "20s"))]
    pub authentication_timeout: Duration,
    /// Time without calls after which a connection is closed. It is at most one minute for anonymous callers.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("default" = "1h"))]
    pub idle_timeout: Duration,
    /// Maximum number of concurrent calls on one connection. Others wait at the client.
    pub streams_per_connection: u32,
    /// Maximum number of concurrent calls of one identity. Others are refused.
    pub streams_per_identity: usize,
    /// Maximum number of bytes in the requests that the server is receiving or working on for one identity, as they are
    /// in memory. Others wait in the network for ten seconds, then they are refused.
    pub bytes_in_flight_per_identity: u64,
    /// Time without data after which a request that has not arrived completely is refused, such as an upload.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String", extend("default" = "1m"))]
    pub request_idle_timeout: Duration,
    /// Maximum number of bytes in memory for responses that one connection has not taken yet, and for its compressed
    /// uploads. Downloads beyond half of it get slower; others wait for a minute, then they are refused.
    pub response_bytes_per_connection: u64,
    /// The same for all connections of one identity.
    pub response_bytes_per_identity: u64,
    /// The same for all clients together.
    pub response_bytes: u64,
}

impl Default for Limits {
    /// Room for a farm: a build has some hundred calls open, and all anonymous callers are one identity.
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 1_000,
            unauthenticated_connections: 5_000,
            authentication_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_hours(1),
            streams_per_connection: 2_000,
            streams_per_identity: 20_000,
            bytes_in_flight_per_identity: 512 << 20,
            request_idle_timeout: Duration::from_mins(1),
            response_bytes_per_connection: 64 << 20,
            response_bytes_per_identity: 128 << 20,
            response_bytes: 192 << 20,
        }
    }
}

/// Enforces the limits of each identity. Belongs below [`super::AccessLayer`].
#[derive(Debug, Clone)]
pub struct LimitsLayer {
    streams: usize,
    /// Limit of bytes in flight, in permits.
    bytes: u32,
    request_idle_timeout: Duration,
    response_bytes: u64,
    all_responses: Arc<ResponseBudget>,
    usage_by_identity: Arc<Mutex<HashMap<String, Weak<IdentityUsage>>>>,
}

/// Free streams, bytes of requests and bytes of responses of one identity.
#[derive(Debug)]
pub(crate) struct IdentityUsage {
    streams: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    responses: ResponseBudget,
    /// Budget of all identities together.
    all_responses: Arc<ResponseBudget>,
}

impl LimitsLayer {
    /// The clones of one layer count together, whatever services and listeners they are put around.
    pub fn new(limits: &Limits) -> Self {
        let permits =
            u32::try_from(limits.bytes_in_flight_per_identity / BYTES_PER_PERMIT).unwrap_or(u32::MAX);
        let max_permits = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        Self {
            streams: limits.streams_per_identity.clamp(1, Semaphore::MAX_PERMITS),
            bytes: permits.clamp(1, max_permits),
            request_idle_timeout: limits.request_idle_timeout,
            response_bytes: limits.response_bytes_per_identity,
            all_responses: Arc::new(ResponseBudget::new(limits.response_bytes)),
            usage_by_identity: Arc::default(),
        }
    }

    fn usage(&self, identity: &str) -> Arc<IdentityUsage> {
        let mut usages = self.usage_by_identity.lock();
        if let Some(usage) = usages.get(identity).and_then(Weak::upgrade) {
            return usage;
        }
        usages.retain(|_, usage| usage.strong_count() > 0);
        let usage = Arc::new(IdentityUsage {
            streams: Arc::new(Semaphore::new(self.streams)),
            bytes: Arc::new(Semaphore::new(self.bytes as usize)),
            responses: ResponseBudget::new(self.response_bytes),
            all_responses: Arc::clone(&self.all_responses),
        });
        usages.insert(identity.to_owned(), Arc::downgrade(&usage));
        usage
    }
}

impl<S> Layer<S> for LimitsLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service behind a [`LimitsLayer`].
#[derive(Debug, Clone)]
pub struct Limited<S> {
    inner: S,
    layer: LimitsLayer,
}

impl<S, C> Service<Request<C>> for Limited<S>
where
    S: Service<Request<C>, Response = Response<C>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    C: RefusalBody,
    C::Error: Into<BoxError>,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<C>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<C>) -> Self::Future {
        let Some(caller) = request.extensions().get::<Caller>() else {
            return Box::pin(self.inner.call(request));
        };
        let connection = request.extensions().get::<PeerInfo>();
        let needs_permission =
            !C::HAS_MESSAGES || required_permission(request.uri().path()) != Required::Nothing;
        let name = caller.identity.to_string();
        let usage = self.layer.usage(if needs_permission {
            &name
        } else {
            WITHOUT_PERMISSION
        });
        let (streams, limit, holder) = match connection {
            Some(peer) if !needs_permission => {
                let streams = peer.state.calls_without_permission();
                (streams, MAX_CALLS_WITHOUT_PERMISSION, "this connection")
            }
            _ => (&usage.streams, self.layer.streams, name.as_str()),
        };
        let Ok(stream) = Arc::clone(streams).try_acquire_owned() else {
            counter!("bitzel_access_refusals_total", "reason" => "streams").increment(1);
            tracing::warn!(identity = %caller.identity, limit, "too many calls at once");
            let refusal = Status::resource_exhausted(format!(
                "{holder} has {limit} calls open, which is the limit; try again when some of them are over"
            ));
            return Box::pin(std::future::ready(Ok(C::refusal(refusal))));
        };
        let call = connection.map(|peer| peer.state.begin_call());
        request.extensions_mut().insert(Budgets(Arc::clone(&usage)));
        let (limit, idle_timeout) = (self.layer.bytes, self.layer.request_idle_timeout);
        let reservation = Arc::new(CallReservation {
            usage,
            message: MessageMemory::default(),
            _stream: stream,
            _call: call,
        });
        request.extensions_mut().insert(reservation.message.clone());
        let (parts, body) = request.into_parts();
        let body = MeteredRequest::new(
            body,
            parts.uri.path(),
            Arc::clone(&reservation),
            limit,
            idle_timeout,
        );
        let has_one_request = body.has_one_request();
        let request = Request::from_parts(parts, C::wrapping(body));
        let response = self.inner.call(request);
        // A call ends with the last byte of its response.
        Box::pin(async move {
            let mut response = response.await?;
            if has_one_request {
                reservation.message.release();
            }
            let memory = response.extensions_mut().remove::<ResponseMemory>();
            Ok(response.map(|body| {
                C::wrapping(ReservedResponse {
                    body,
                    memory,
                    _reservation: reservation,
                })
            }))
        })
    }
}

/// Part of the identity's limits that one call has taken.
#[derive(Debug)]
struct CallReservation {
    usage: Arc<IdentityUsage>,
    /// Permits of the message that is arriving or being processed.
    message: MessageMemory,
    _stream: OwnedSemaphorePermit,
    _call: Option<OpenCall>,
}
