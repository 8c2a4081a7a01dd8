//! Options of the client of an HTTP cache.

use std::fmt;
use std::time::Duration;

use bitzel_rpc::secret::without_secrets;

/// Credentials of the client.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum HttpCredentials {
    /// No credentials.
    #[default]
    None,
    /// User and password, for servers with htpasswd-style authentication.
    Basic {
        /// Name of the user.
        user: String,
        /// Password of the user.
        password: String,
    },
    /// Bearer token.
    Bearer(String),
}

impl fmt::Debug for HttpCredentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the secret, because the text gets into logs.
        match self {
            Self::None => formatter.write_str("None"),
            Self::Basic { user, .. } => write!(formatter, "Basic({user})"),
            Self::Bearer(_) => formatter.write_str("Bearer"),
        }
    }
}

/// Address of a cache, credentials and timeouts.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpCacheOptions {
    /// `http://` or `https://`, with a path in front of `/cas/` and `/ac/` if the server has one.
    pub url: String,
    /// Credentials that are sent with every request.
    pub credentials: HttpCredentials,
    /// Certificates in PEM to trust besides those of the system.
    pub ca_certificates: Option<Vec<u8>>,
    /// Limit for setting up a connection.
    pub connect_timeout: Duration,
    /// Limit for the next bytes of a response, its first ones included.
    pub read_timeout: Duration,
}

impl HttpCacheOptions {
    /// Options with the usual limits and no credentials.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            credentials: HttpCredentials::None,
            ca_certificates: None,
            connect_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_mins(1),
        }
    }
}

impl fmt::Debug for HttpCacheOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password: nothing has checked it yet.
        formatter
            .debug_struct("HttpCacheOptions")
            .field("url", &without_secrets(&self.url))
            .field("credentials", &self.credentials)
            .field("has_ca_certificates", &self.ca_certificates.is_some())
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_holds_no_secret() {
        let options = HttpCacheOptions::new("http://me:secret@host");
        assert!(!format!("{options:?}").contains("secret"));
    }
}
