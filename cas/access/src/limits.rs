//! What one caller may take from the others.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Buf;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use metrics::counter;
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::PollSemaphore;
use tonic::Status;
use tower::{BoxError, Layer, Service};

use crate::access_layer::RefusalBody;
use crate::caller::Caller;

/// Bytes of one permit: semaphores count to less than the bytes of large messages together.
const UNIT: u64 = 1 << 10;
/// How long a message waits for room.
const PATIENCE: Duration = Duration::from_secs(10);
/// Compression flag and length, before each message of gRPC.
const HEADER: usize = 5;

/// `[limits]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Connections at the same time, of everybody together.
    pub connections: usize,
    /// Calls at the same time on one connection. More wait at the client.
    pub streams_per_connection: u32,
    /// Calls at the same time of one identity. More are refused.
    pub streams_per_identity: usize,
    /// Bytes of one identity's requests that have begun to arrive and are not done with. More wait in the network for ten
    /// seconds, then they are refused.
    pub bytes_in_flight_per_identity: u64,
}

impl Default for Limits {
    /// Room for a farm: a build has some hundred calls open, and all anonymous callers are one identity.
    fn default() -> Self {
        Self {
            connections: 10_000,
            streams_per_connection: 2_000,
            streams_per_identity: 20_000,
            bytes_in_flight_per_identity: 512 << 20,
        }
    }
}

/// Keeps the limits per identity. Goes below [`super::AccessLayer`].
#[derive(Debug, Clone)]
pub struct LimitsLayer {
    streams: usize,
    /// In units.
    bytes: u32,
    accounts: Arc<Mutex<HashMap<String, Weak<Account>>>>,
}

/// What an identity uses now.
#[derive(Debug)]
struct Account {
    streams: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
}

impl LimitsLayer {
    /// Counts for all services and listeners that its clones are put around.
    pub fn new(limits: &Limits) -> Self {
        let units = u32::try_from(limits.bytes_in_flight_per_identity / UNIT).unwrap_or(u32::MAX);
        let most = u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX);
        Self {
            streams: limits.streams_per_identity.clamp(1, Semaphore::MAX_PERMITS),
            bytes: units.clamp(1, most),
            accounts: Arc::default(),
        }
    }

    fn account(&self, identity: &str) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        if let Some(account) = accounts.get(identity).and_then(Weak::upgrade) {
            return account;
        }
        accounts.retain(|_, account| account.strong_count() > 0);
        let account = Arc::new(Account {
            streams: Arc::new(Semaphore::new(self.streams)),
            bytes: Arc::new(Semaphore::new(self.bytes as usize)),
        });
        accounts.insert(identity.to_owned(), Arc::downgrade(&account));
        account
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

/// What [`LimitsLayer`] puts around a service.
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

    fn call(&mut self, request: Request<C>) -> Self::Future {
        let Some(caller) = request.extensions().get::<Caller>() else {
            return Box::pin(self.inner.call(request));
        };
        let account = self.layer.account(&caller.identity.to_string());
        let Ok(place) = Arc::clone(&account.streams).try_acquire_owned() else {
            counter!("bitzel_access_refusals_total", "reason" => "streams").increment(1);
            tracing::warn!(identity = %caller.identity, limit = self.layer.streams, "too many calls at once");
            let refusal = Status::resource_exhausted(format!(
                "{} has {} calls open, which is the limit; try again when some of them are over",
                caller.identity, self.layer.streams
            ));
            return Box::pin(std::future::ready(Ok(C::refusal(refusal))));
        };
        let limit = self.layer.bytes;
        let held = Arc::new(Held {
            account,
            message: Mutex::new(None),
            _place: place,
        });
        let request = request.map({
            let held = Arc::clone(&held);
            |body| C::wrapping(MeteredRequest::new(body, held, limit))
        });
        let response = self.inner.call(request);
        // Until the last of the response: that is when a call is over.
        Box::pin(async move {
            Ok(response
                .await?
                .map(|body| C::wrapping(HoldingResponse { body, _held: held })))
        })
    }
}

/// What one call holds.
#[derive(Debug)]
struct Held {
    account: Arc<Account>,
    /// Room of the message that is arriving or being worked on.
    message: Mutex<Option<OwnedSemaphorePermit>>,
    _place: OwnedSemaphorePermit,
}

/// A request body that takes room for each message before letting it in, and gives it back when the service asks for
/// the next one: then it is done with the last. So a call never waits for room while holding some.
///
/// The wait has an end. All calls of a connection share its flow control window: data of calls that wait may keep out
/// the rest of a message that has its room already, and then nobody would go on.
///
/// Without messages, each piece of data counts as one.
struct MeteredRequest<C> {
    body: C,
    held: Arc<Held>,
    limit: u32,
    room: PollSemaphore,
    /// Data that waits for room.
    pending: Option<bytes::Bytes>,
    /// Header bytes seen of the next message.
    header: Vec<u8>,
    /// Bytes of the present message that are still to come.
    remaining: u64,
    /// Units that the next message needs; 0 for none.
    wanted: u32,
    /// When waiting for them ends.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<C: RefusalBody> MeteredRequest<C> {
    fn new(body: C, held: Arc<Held>, limit: u32) -> Self {
        let room = PollSemaphore::new(Arc::clone(&held.account.bytes));
        Self {
            body,
            held,
            limit,
            room,
            pending: None,
            header: Vec::with_capacity(HEADER),
            remaining: 0,
            wanted: 0,
            patience: None,
        }
    }

    /// Walks over `data` up to the header of a message that needs room.
    fn scan(&mut self, data: &mut bytes::Bytes) {
        if !C::HAS_MESSAGES {
            let units = u32::try_from((data.len() as u64).div_ceil(UNIT)).unwrap_or(u32::MAX);
            self.wanted = units.clamp(1, self.limit);
            data.clear();
        }
        while data.has_remaining() && self.wanted == 0 {
            if self.remaining > 0 {
                let step = self.remaining.min(data.remaining() as u64);
                self.remaining -= step;
                data.advance(usize::try_from(step).unwrap_or(usize::MAX));
                continue;
            }
            self.header.push(data.get_u8());
            if let [_, length @ ..] = self.header.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.remaining = u32::from_be_bytes(length).into();
                self.header.clear();
                let units = u32::try_from(self.remaining.div_ceil(UNIT)).unwrap_or(u32::MAX);
                self.wanted = units.clamp(1, self.limit);
            }
        }
    }
}

impl<C: RefusalBody> HttpBody for MeteredRequest<C>
where
    C::Error: Into<BoxError>,
{
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.pending.is_none() {
            if this.remaining == 0 && this.header.is_empty() {
                *this.held.message.lock() = None;
            }
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.pending = Some(data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => return Poll::Ready(None),
            }
            let mut data = this.pending.clone().unwrap_or_default();
            // The largest of several messages that arrived together is enough: their bytes are here anyway.
            let mut wanted = 0;
            while data.has_remaining() {
                this.scan(&mut data);
                wanted = wanted.max(std::mem::take(&mut this.wanted));
            }
            this.wanted = wanted;
        }
        if this.wanted > 0 {
            *this.held.message.lock() = None;
            match this.room.poll_acquire_many(context, this.wanted) {
                Poll::Ready(permit) => *this.held.message.lock() = permit,
                Poll::Pending => {
                    let patience = this
                        .patience
                        .get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
                    ready!(patience.as_mut().poll(context));
                    counter!("bitzel_access_refusals_total", "reason" => "bytes").increment(1);
                    let refusal = Status::resource_exhausted(format!(
                        "requests of this identity hold {} KiB, which is the limit; try again when some are over",
                        this.limit
                    ));
                    return Poll::Ready(Some(Err(refusal.into())));
                }
            }
            this.wanted = 0;
            this.patience = None;
        }
        Poll::Ready(this.pending.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.pending.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct HoldingResponse<C> {
    body: C,
    _held: Arc<Held>,
}

impl<C: RefusalBody> HttpBody for HoldingResponse<C>
where
    C::Error: Into<BoxError>,
{
    type Data = bytes::Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<bytes::Bytes>, BoxError>>> {
        let frame = ready!(Pin::new(&mut self.get_mut().body).poll_frame(context));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
