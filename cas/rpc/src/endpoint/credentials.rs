//! Credentials of a client, and the certificate authorities that it trusts.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitzel_proto::with_causes;
use http::HeaderValue;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::error::Error;
use crate::secret::Secret;
use crate::watched_files::WatchedFiles;

/// Credentials of a client and the authorities that it trusts. The default: no credentials, and the certificate
/// authorities of the system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCredentials {
    /// PEM file of the certificate authorities to trust, instead of those of the system.
    pub ca: Option<PathBuf>,
    /// PEM files of a client certificate and its key. Like those of the authorities, they are read again when they change.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// File with a bearer token. It is read again when it changes, so a token may be renewed during a build.
    pub token_file: Option<PathBuf>,
    /// Name and password. If there is a token too, the token is used.
    pub password: Option<(String, Secret)>,
}

impl ClientCredentials {
    /// True if requests carry a secret, which must be encrypted on the way.
    pub(super) fn are_secret(&self) -> bool {
        self.token_file.is_some() || self.password.is_some()
    }

    pub(super) fn tls(&self) -> Result<ClientTlsConfig, Error> {
        let mut tls = ClientTlsConfig::new();
        tls = match &self.ca {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.certificate {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        Ok(tls)
    }

    pub(super) fn authorization(&self) -> Result<Option<Authorization>, Error> {
        if let Some(path) = &self.token_file {
            return Ok(Some(Authorization::Token(Arc::new(TokenFile::open(path)?))));
        }
        let Some((name, password)) = &self.password else {
            return Ok(None);
        };
        let pair = BASE64_STANDARD.encode(format!("{name}:{}", password.expose()));
        let header = header(&format!("Basic {pair}"), "name and password")?;
        Ok(Some(Authorization::Fixed(header)))
    }
}

/// Source of the `authorization` header of requests.
#[derive(Debug, Clone)]
pub(super) enum Authorization {
    Fixed(HeaderValue),
    Token(Arc<TokenFile>),
}

impl Authorization {
    pub(super) fn header(&self) -> HeaderValue {
        match self {
            Self::Fixed(header) => header.clone(),
            Self::Token(file) => file.header(),
        }
    }
}

/// Bearer token in a file that may change.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    watched: WatchedFiles,
    header: ArcSwap<HeaderValue>,
}

impl TokenFile {
    fn open(path: &Path) -> Result<Self, Error> {
        Ok(Self {
            path: path.to_owned(),
            watched: WatchedFiles::new(vec![path.to_owned()]),
            header: ArcSwap::from_pointee(bearer(path)?),
        })
    }

    fn header(&self) -> HeaderValue {
        if self.watched.changed() {
            match bearer(&self.path) {
                Ok(header) => self.header.store(Arc::new(header)),
                Err(error) => tracing::warn!(
                    error = with_causes(&error),
                    "cannot read the token again; the one from before is used"
                ),
            }
        }
        HeaderValue::clone(&self.header.load())
    }
}

fn bearer(path: &Path) -> Result<HeaderValue, Error> {
    let token = read(path)?;
    let token = token.trim();
    if token.is_empty() {
        return Err(Error::InvalidArgument(format!(
            "the token file {} is empty",
            path.display()
        )));
    }
    header(
        &format!("Bearer {token}"),
        &format!("the token in {}", path.display()),
    )
}

fn header(text: &str, name: &str) -> Result<HeaderValue, Error> {
    let mut header = HeaderValue::from_str(text)
        .map_err(|_| Error::InvalidArgument(format!("{name} cannot be sent: it is not one line of text")))?;
    // Debug output leaves it out, and HTTP/2 keeps it out of its compression tables.
    header.set_sensitive(true);
    Ok(header)
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Io {
        context: format!("cannot read {}", path.display()),
        source,
    })
}
