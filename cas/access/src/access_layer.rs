//! Layer that authenticates callers.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{Extensions, HeaderMap, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use metrics::counter;
use tonic::{Code, Status};
use tower::{BoxError, Layer, Service};
use tracing::Span;

use crate::access_rules::AccessRules;
use crate::authenticator::{Authenticator, Refusal};
use crate::caller::Caller;
use crate::credentials::Credentials;
use crate::identity::Identity;
use crate::incoming::PeerInfo;
use crate::permission::Permission;
use crate::policy::AccessPolicy;
use crate::required_permission::{Required, required_permission};

/// Body of requests and responses, whose type stands for the protocol of the services below.
pub trait RefusalBody: HttpBody<Data = Bytes> + Sized + Send + Unpin + 'static {
    /// True if data consists of messages with a length before each, as in gRPC.
    const HAS_MESSAGES: bool;

    /// Makes a body of another one.
    fn wrapping<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>;

    /// Response with `status`.
    fn refusal(status: Status) -> Response<Self>;

    /// Checks a request before it gets to a service. It is not read, so the check is only an upper bound.
    fn admit(caller: &Caller, path: &str) -> Result<(), Status>;
}

/// gRPC, where the status is in the headers.
impl RefusalBody for tonic::body::Body {
    const HAS_MESSAGES: bool = true;

    fn wrapping<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::new(body)
    }

    fn refusal(status: Status) -> Response<Self> {
        status.into_http()
    }

    fn admit(caller: &Caller, path: &str) -> Result<(), Status> {
        let granted = caller.policy.permissions_anywhere(&caller.identity);
        match required_permission(path) {
            Required::Nothing => Ok(()),
            Required::Anything if !granted.is_empty() => Ok(()),
            Required::Anything => Err(caller.refuse(&Permission::ALL, "any instance")),
            Required::OneOf(permissions) if permissions.iter().any(|one| granted.contains(*one)) => Ok(()),
            Required::OneOf(permissions) => Err(caller.refuse(permissions, "any instance")),
        }
    }
}

/// Plain HTTP, where a refusal is a status such as 401 or 403 with the reason as text.
impl RefusalBody for axum::body::Body {
    const HAS_MESSAGES: bool = false;

    fn wrapping<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self::new(body)
    }

    fn refusal(status: Status) -> Response<Self> {
        let code = match status.code() {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = Response::new(Self::from(format!("{}\n", status.message())));
        *response.status_mut() = code;
        if code == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Basic realm=\"bitzel\", Bearer realm=\"bitzel\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// Admits everything: each path names its instance, so the service can check the exact permission.
    fn admit(_: &Caller, _: &str) -> Result<(), Status> {
        Ok(())
    }
}

/// Authenticates every request, refuses those that no instance could allow, and puts a [`Caller`] into the others for
/// the services to ask. Its clones share the rules, which can be replaced while the server serves.
#[derive(Debug, Clone)]
pub struct AccessLayer {
    rules: Arc<ArcSwap<AccessRules>>,
    /// Authenticator of calls that another server forwards. It is asked before those of the rules.
    forwarded: Option<Arc<dyn Authenticator>>,
}

impl AccessLayer {
    /// Callers authenticate by one of `authenticators`, or by the certificate of their connection.
    pub fn new(policy: AccessPolicy, authenticators: Vec<Arc<dyn Authenticator>>) -> Self {
        Self::with_rules(AccessRules::fixed(policy, authenticators))
    }

    pub(crate) fn with_rules(rules: AccessRules) -> Self {
        Self {
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            forwarded: None,
        }
    }

    /// Allows everything to everybody: for sockets that only trusted programs can reach.
    pub fn open() -> Self {
        Self::new(AccessPolicy::open(), Vec::new())
    }

    /// Asks another authenticator before all others, also after the rules have been replaced. While the rules allow
    /// everything to everybody, none is asked.
    #[must_use]
    pub fn with_authenticator(self, authenticator: Arc<dyn Authenticator>) -> Self {
        Self {
            forwarded: Some(authenticator),
            ..self
        }
    }

    /// The rules that apply now.
    pub(crate) fn rules(&self) -> Arc<AccessRules> {
        self.rules.load_full()
    }

    /// Replaces the rules. Requests that have begun, and their streams, keep those that they began with.
    pub(crate) fn replace(&self, rules: AccessRules) {
        self.rules.store(Arc::new(rules));
    }

    /// Authenticates a request. Its credentials take precedence over the certificate of the connection: they are more
    /// specific, as when a proxy with a certificate passes the tokens of its users on. Wrong credentials are never
    /// anonymous access, because the caller could not explain the refusals that follow.
    async fn caller(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Status> {
        // One load: authenticators and rules of one request belong together.
        let rules = self.rules();
        let identity = match Credentials::of(headers) {
            Err(problem) => Err(Refusal::Invalid(problem.to_owned())),
            Ok(Some(credentials)) => {
                let peer = extensions.get::<PeerInfo>();
                let address = peer.map(|peer| peer.state.address());
                self.authenticate(&rules, &credentials, address).await
            }
            Ok(None) => Ok(certificate(extensions).unwrap_or_else(|| Arc::new(Identity::anonymous()))),
        };
        let identity = identity.map_err(|refusal| refused(&refusal))?;
        Ok(Caller {
            identity,
            policy: Arc::clone(&rules.policy),
        })
    }

    async fn authenticate(
        &self,
        rules: &AccessRules,
        credentials: &Credentials,
        address: Option<IpAddr>,
    ) -> Result<Arc<Identity>, Refusal> {
        let forwarded = self.forwarded.iter().filter(|_| !rules.policy.is_open());
        for authenticator in forwarded.chain(&rules.authenticators) {
            if let Some(outcome) = authenticator.authenticate_from(credentials, address).await {
                return outcome;
            }
        }
        if rules.authenticators.is_empty() && rules.policy.rules.is_empty() {
            // This server authenticates nobody; the client may be configured for another server as well.
            return Ok(Arc::new(Identity::anonymous()));
        }
        let kind = match credentials {
            Credentials::Bearer(_) => "tokens",
            Credentials::Basic { .. } => "passwords",
        };
        Err(Refusal::Invalid(format!("this server takes no {kind}")))
    }
}

/// Status of a request whose credentials are refused. It is counted and logged, without the credentials.
fn refused(refusal: &Refusal) -> Status {
    tracing::warn!(reason = %refusal, "credentials refused");
    let (reason, status) = match refusal {
        Refusal::Invalid(reason) => {
            let text = format!("the credentials are not accepted: {reason}");
            ("credentials", Status::unauthenticated(text))
        }
        Refusal::Unavailable(reason) => ("unavailable", Status::unavailable(reason)),
    };
    counter!("bitzel_access_refusals_total", "reason" => reason).increment(1);
    status
}

impl<S> Layer<S> for AccessLayer {
    type Service = Access<S>;

    fn layer(&self, inner: S) -> Access<S> {
        Access {
            inner,
            layer: self.clone(),
        }
    }
}

/// Service behind an [`AccessLayer`].
#[derive(Debug, Clone)]
pub struct Access<S> {
    inner: S,
    layer: AccessLayer,
}

impl<S, B, C> Service<Request<B>> for Access<S>
where
    S: Service<Request<B>, Response = Response<C>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    B: Send + 'static,
    C: RefusalBody,
{
    type Response = Response<C>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<C>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The service that is ready takes this request, its clone waits for the next one.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        Box::pin(async move {
            let caller = layer.caller(request.headers(), request.extensions()).await;
            let admitted = caller.and_then(|caller| {
                Span::current().record("identity", caller.identity.to_string());
                C::admit(&caller, request.uri().path())?;
                if let Some(peer) = request.extensions().get::<PeerInfo>() {
                    let is_authenticated = !caller.identity.is_anonymous() || caller.policy.is_open();
                    peer.state.permit(is_authenticated);
                }
                Ok(caller)
            });
            match admitted {
                Ok(caller) => {
                    // The services do not need the credentials, and what is not there cannot be logged.
                    request.headers_mut().remove(http::header::AUTHORIZATION);
                    request.extensions_mut().insert(caller);
                    inner.call(request).await
                }
                Err(status) => Ok(C::refusal(status)),
            }
        })
    }
}

fn certificate(extensions: &Extensions) -> Option<Arc<Identity>> {
    let certificate = extensions.get::<PeerInfo>()?.certificate.as_ref()?;
    Some(Arc::clone(&certificate.identity))
}
