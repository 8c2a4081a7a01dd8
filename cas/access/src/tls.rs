//! TLS of listeners.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bitzel_proto::with_causes;
use bitzel_rpc::WatchedFiles;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::error::Error;

/// Certificates of a listener, all as PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// The server's certificate, with the intermediate ones.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of client certificates; without it, clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Refuses clients without a certificate.
    pub client_certificate_required: bool,
}

/// TLS settings for new connections. The files are read again when they change; open connections keep the settings that
/// they were accepted with.
#[derive(Debug)]
pub struct ServerTls {
    options: TlsOptions,
    watched: WatchedFiles,
    config: ArcSwap<ServerConfig>,
}

impl ServerTls {
    /// Reads the files.
    pub fn open(options: TlsOptions) -> Result<Self, Error> {
        let mut paths = vec![options.certificate.clone(), options.key.clone()];
        paths.extend(options.client_ca.clone());
        let watched = WatchedFiles::new(paths);
        Ok(Self {
            config: ArcSwap::from_pointee(config(&options)?),
            watched,
            options,
        })
    }

    /// True if clients are asked for a certificate.
    pub(crate) fn asks_for_certificates(&self) -> bool {
        self.options.client_ca.is_some()
    }

    /// Settings for the next connection. Unusable files, such as those in the middle of a replacement, change nothing.
    pub fn config(&self) -> Arc<ServerConfig> {
        if self.watched.changed() {
            match config(&self.options) {
                Ok(config) => {
                    self.config.store(Arc::new(config));
                    tracing::info!(certificate = %self.options.certificate.display(), "certificates read again");
                }
                Err(error) => tracing::error!(
                    error = with_causes(&error),
                    "cannot read the certificates again; those from before are kept"
                ),
            }
        }
        self.config.load_full()
    }
}

fn config(options: &TlsOptions) -> Result<ServerConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let chain = certificates(&options.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(|error| unusable(&options.key, &error))?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::InvalidArgument(error.to_string()))?;
    let builder = match &options.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if options.client_certificate_required {
                verifier
            } else {
                verifier.allow_unauthenticated()
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|error| unusable(path, &error))?)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| unusable(&options.certificate, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unusable(path, &error))?;
    if certificates.is_empty() {
        return Err(Error::InvalidArgument(format!(
            "{} has no certificate",
            path.display()
        )));
    }
    Ok(certificates)
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> Error {
    Error::InvalidArgument(format!("{} cannot be used for TLS: {error}", path.display()))
}
