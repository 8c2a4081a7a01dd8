//! From credentials to an identity.

use std::sync::Arc;

use async_trait::async_trait;

use crate::credentials::Credentials;
use crate::identity::Identity;

/// The certificate of the other end of a TLS connection, whose chain has been verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Who it was issued to.
    pub identity: Arc<Identity>,
}

/// Why credentials do not prove anything. Goes to the caller and into logs, so it holds nothing of the credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// They are wrong.
    #[error("{0}")]
    Invalid(String),
    /// Whether they are right cannot be found out now.
    #[error("{0}")]
    Unavailable(String),
}

/// One way to check credentials.
#[async_trait]
pub trait Authenticator: Send + Sync + std::fmt::Debug {
    /// The caller that `credentials` prove; `None` when this authenticator is not for credentials of this kind.
    async fn authenticate(&self, credentials: &Credentials) -> Option<Result<Arc<Identity>, Refusal>>;
}
