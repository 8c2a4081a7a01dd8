//! Authentication: from credentials to an identity.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;

use crate::credentials::Credentials;
use crate::identity::Identity;

/// Certificate of a TLS client, whose chain has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Identity that it was issued to.
    pub identity: Arc<Identity>,
}

/// Reason why credentials are refused. It is shown to the caller and in logs, so it contains nothing of the credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The credentials are wrong.
    #[error("{0}")]
    Invalid(String),
    /// The credentials cannot be checked at the moment.
    #[error("{0}")]
    Unavailable(String),
}

/// Check of one kind of credentials.
#[async_trait]
pub trait Authenticator: Send + Sync + std::fmt::Debug {
    /// The identity of the caller. `None` if this authenticator is not for credentials of this kind.
    async fn authenticate(&self, credentials: &Credentials) -> Option<Result<Arc<Identity>, Refusal>>;

    /// The identity of the caller, as [`authenticate`](Self::authenticate) finds it. `address` is that of the client if
    /// it is known, for checks that are expensive.
    async fn authenticate_from(
        &self,
        credentials: &Credentials,
        address: Option<IpAddr>,
    ) -> Option<Result<Arc<Identity>, Refusal>> {
        let _ = address;
        self.authenticate(credentials).await
    }
}
