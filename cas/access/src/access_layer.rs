//! The layer that finds out who is calling.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{HeaderValue, WWW_AUTHENTICATE};
use http::{Extensions, HeaderMap, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use metrics::counter;
use tonic::{Code, Status};
use tower::{BoxError, Layer, Service};
use tracing::Span;

use crate::authenticator::{Authenticator, Refusal};
use crate::caller::Caller;
use crate::credentials::Credentials;
use crate::identity::Identity;
use crate::incoming::PeerInfo;
use crate::permission::Permission;
use crate::policy::AccessPolicy;
use crate::required_permission::{Required, required_permission};

/// Bodies of requests and responses. The type tells which protocol the services below speak.
pub trait RefusalBody: HttpBody<Data = Bytes> + Sized + Send + Unpin + 'static {
    /// Whether data is messages with a length in front of each, as in gRPC.
    const HAS_MESSAGES: bool;

    /// A body made of another one.
    fn wrapping<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>;

    /// The response that says `status`.
    fn refusal(status: Status) -> Response<Self>;

    /// What is to be checked before a request gets to a service. Without reading it, so not more than an upper bound.
    fn admit(caller: &Caller, path: &str) -> Result<(), Status>;
}

/// gRPC: a status in the headers.
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

/// Plain HTTP: 401 or 403 with the reason as text.
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

    /// Every path names its instance, so the service knows all that it takes.
    fn admit(_: &Caller, _: &str) -> Result<(), Status> {
        Ok(())
    }
}

/// Authenticates every request, refuses what cannot be allowed whatever the instance is, and leaves a [`Caller`] in
/// the request for the services to ask.
#[derive(Debug, Clone)]
pub struct AccessLayer {
    authenticators: Arc<[Arc<dyn Authenticator>]>,
    policy: Arc<AccessPolicy>,
}

impl AccessLayer {
    /// Callers prove who they are to one of `authenticators`, or by the certificate of their connection.
    pub fn new(policy: AccessPolicy, authenticators: Vec<Arc<dyn Authenticator>>) -> Self {
        Self {
            authenticators: authenticators.into(),
            policy: Arc::new(policy),
        }
    }

    /// Everybody may do everything: for sockets that only trusted programs can reach.
    pub fn open() -> Self {
        Self::new(AccessPolicy::open(), Vec::new())
    }

    /// Credentials of the request come before the certificate of the connection: they are more particular, as when a
    /// proxy with a certificate passes the tokens of its users on. Wrong credentials are never anonymous access:
    /// somebody who believes to be known would wonder about every later refusal.
    async fn caller(
        &self,
        headers: &HeaderMap,
        certificate: Option<Arc<Identity>>,
    ) -> Result<Caller, Status> {
        let identity = match Credentials::of(headers) {
            Err(problem) => Err(Refusal::Invalid(problem.to_owned())),
            Ok(Some(credentials)) => self.authenticate(&credentials).await,
            Ok(None) => Ok(certificate.unwrap_or_else(|| Arc::new(Identity::anonymous()))),
        };
        let identity = identity.map_err(|refusal| refused(&refusal))?;
        Ok(Caller {
            identity,
            policy: Arc::clone(&self.policy),
        })
    }

    async fn authenticate(&self, credentials: &Credentials) -> Result<Arc<Identity>, Refusal> {
        for authenticator in self.authenticators.iter() {
            if let Some(outcome) = authenticator.authenticate(credentials).await {
                return outcome;
            }
        }
        if self.authenticators.is_empty() && self.policy.rules.is_empty() {
            // Nothing to prove here: a client may be set up for another server as well.
            return Ok(Arc::new(Identity::anonymous()));
        }
        let kind = match credentials {
            Credentials::Bearer(_) => "tokens",
            Credentials::Basic { .. } => "passwords",
        };
        Err(Refusal::Invalid(format!("this server takes no {kind}")))
    }
}

/// The status of a request whose credentials are no good: counted and logged, without the credentials.
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

/// What [`AccessLayer`] puts around a service.
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
        // The one that is ready goes along, its clone waits for the next request.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let layer = self.layer.clone();
        Box::pin(async move {
            let certificate = certificate(request.extensions());
            let caller = layer.caller(request.headers(), certificate).await;
            let admitted = caller.and_then(|caller| {
                Span::current().record("identity", caller.identity.to_string());
                C::admit(&caller, request.uri().path())?;
                Ok(caller)
            });
            match admitted {
                Ok(caller) => {
                    // Nobody below has a use for them, and what is not there cannot be logged.
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
