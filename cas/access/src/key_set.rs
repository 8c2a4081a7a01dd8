//! Keys that verify tokens (JWKS, RFC 7517).

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt as _;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey};

use crate::error::Error;

/// Largest key set that is downloaded. It is more than any real one has.
const MAX_KEY_SET_BYTES: usize = 1 << 20;
/// Time that a download may take.
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Place where the keys are published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// File on this machine.
    File(PathBuf),
    /// An `https` URL. `http` is accepted only for this machine: who can change the answer can sign tokens.
    Url(String),
}

impl KeySource {
    /// Parses a URL or a path.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let loopback = ["http://127.0.0.1", "http://[::1]", "http://localhost"];
        let after_host = |prefix: &&str| {
            let rest = text.strip_prefix(*prefix);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
        };
        if text.starts_with("https://") || loopback.iter().any(after_host) {
            Ok(Self::Url(text.to_owned()))
        } else if text.contains("://") {
            Err(Error::InvalidArgument(format!(
                "keys at {text:?} could be changed on the way; write an https URL or the path of a file"
            )))
        } else {
            Ok(Self::File(text.into()))
        }
    }

    /// Reads the keys.
    pub(super) async fn read(&self) -> Result<Vec<Key>, Error> {
        let bytes = match self {
            Self::File(path) => tokio::fs::read(path).await.map_err(Error::io(|| {
                format!("cannot read the keys of tokens from {}", path.display())
            }))?,
            Self::Url(url) => download(url).await?,
        };
        keys(&bytes)
    }
}

async fn download(url: &str) -> Result<Vec<u8>, Error> {
    let failed = |source| Error::Keys {
        context: format!("cannot get the keys of tokens from {url}"),
        source,
    };
    bitzel_rpc::crypto_provider::install();
    let client = reqwest::Client::builder()
        .timeout(DOWNLOAD_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(failed)?;
    let response = client
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status);
    let mut body = response.map_err(failed)?.bytes_stream();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk.map_err(failed)?);
        if bytes.len() > MAX_KEY_SET_BYTES {
            return Err(Error::InvalidArgument(format!(
                "{url} answers with more than 1 MiB"
            )));
        }
    }
    Ok(bytes)
}

/// Key with its algorithm, which never follows from the token: an attacker could choose it there.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

fn keys(bytes: &[u8]) -> Result<Vec<Key>, Error> {
    let set: JwkSet = serde_json::from_slice(bytes).map_err(|error| {
        Error::InvalidArgument(format!("the keys of tokens are not a JSON Web Key Set: {error}"))
    })?;
    let keys: Vec<Key> = set.keys.iter().filter_map(key).collect();
    if keys.is_empty() {
        return Err(Error::InvalidArgument(
            "the JSON Web Key Set has no key for RS256, ES256 or EdDSA".to_owned(),
        ));
    }
    Ok(keys)
}

/// Reads a key. `None` for keys that the set holds for other purposes, such as shared secrets.
fn key(jwk: &Jwk) -> Option<Key> {
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(parameters) if parameters.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(parameters) if parameters.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        _ => return None,
    };
    Some(Key {
        id: jwk.common.key_id.clone(),
        algorithm,
        decoding: DecodingKey::from_jwk(jwk).ok()?,
    })
}
