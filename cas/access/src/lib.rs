//! Access control: authentication, authorisation and limits, between a listener and the services.
//!
//! ```text
//!  connection ─▶ ServerTls ─▶ AccessLayer ─▶ LimitsLayer ─▶ service ─▶ authorize(permission, instance)
//!                certificate   credentials     streams,       reads the
//!                of the peer   ─▶ Identity     bytes          instance name
//! ```
//!
//! [`AccessLayer`] authenticates the caller and puts a [`Caller`] into the extensions of the request. The services call
//! [`authorize`] when they know the instance. The layer refuses methods that are not classified in
//! [`required_permission`], so a new service is closed until it is classified.
//!
//! The action cache has permissions of its own, because the digest of a blob proves its content, but a result is only
//! its writer's claim. Who may write results decides what everybody else builds with (decision 0021).

mod access_layer;
mod access_rules;
mod authenticator;
mod caller;
mod client_certificate;
mod configuration;
mod credentials;
mod error;
mod identity;
mod incoming;
mod key_set;
mod limits;
mod password_authenticator;
mod pattern;
mod permission;
mod policy;
mod required_permission;
mod ring_signatures;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod tls;
mod token_authenticator;

pub use access_layer::{Access, AccessLayer, RefusalBody};
pub use authenticator::{Authenticator, PeerCertificate, Refusal};
pub use caller::{Caller, authorize, authorize_any, permitted};
pub use configuration::{AccessConfiguration, AccessTable, RuleTable, ServerAccess, TlsTable, TokensTable};
pub use credentials::Credentials;
pub use error::Error;
pub use identity::{AuthenticationMethod, Identity};
pub use incoming::{CloseReason, Connection, ConnectionState, PeerInfo, incoming};
pub use key_set::KeySource;
pub use limits::{HeldMessage, Limits, LimitsLayer, MessageMemory, ResponseBudget, ResponseMemory};
pub use password_authenticator::PasswordAuthenticator;
pub use pattern::Pattern;
pub use permission::{Permission, PermissionSet};
pub use policy::{AccessPolicy, Rule};
pub use required_permission::{Required, required_permission};
pub use tls::{ServerTls, TlsOptions};
pub use token_authenticator::{TokenAuthenticator, TokenOptions};

#[cfg(test)]
mod tests;
