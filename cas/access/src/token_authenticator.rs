//! JSON Web Tokens (RFC 7519).

use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bitzel_proto::with_causes;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use lru::LruCache;
use parking_lot::Mutex;
use ring::digest;
use serde_json::{Map, Value};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use tokio::time::Instant;

use crate::authenticator::{Authenticator, Refusal};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::identity::{AuthenticationMethod, Identity};
use crate::key_set::{Key, KeySource};
use crate::ring_signatures;

/// Age at which keys are read again.
pub(crate) const REFRESH_INTERVAL: Duration = Duration::from_mins(5);
/// Shortest time between two reads, whatever key ids clients invent (`docs/access.md`).
pub(crate) const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(10);
/// Time for which a verified token is not checked again. A withdrawn key stays in use for as long.
pub(crate) const VERIFIED_LIFETIME: Duration = Duration::from_mins(1);
/// Tokens that are remembered as verified.
const MAX_VERIFIED_TOKENS: NonZero<usize> = NonZero::new(4096).unwrap();

/// Keys and claims of the tokens that are accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOptions {
    /// Keys that verify the tokens.
    pub keys: KeySource,
    /// Required issuer (`iss`).
    pub issuer: String,
    /// Accepted audiences (`aud`): a token for another service is not accepted here.
    pub audiences: Vec<String>,
    /// Claim with the caller's name, `sub` for example.
    pub identity_claim: String,
    /// Claim with the caller's groups: a list of texts, or one text with spaces between them.
    pub groups_claim: String,
}

/// Authenticator by bearer token.
#[derive(Debug)]
pub struct TokenAuthenticator {
    options: TokenOptions,
    keys: ArcSwap<Vec<Key>>,
    refreshed: AsyncMutex<Instant>,
    verified: Mutex<LruCache<[u8; 32], VerifiedToken>>,
}

/// Outcome of the check of a token, which holds for some time.
#[derive(Debug, Clone)]
struct VerifiedToken {
    identity: Arc<Identity>,
    until: Instant,
}

impl TokenAuthenticator {
    /// Reads the keys. It is an error if there are none: the server could not check any token.
    pub async fn open(options: TokenOptions) -> Result<Self, Error> {
        ring_signatures::install();
        let keys = options.keys.read().await?;
        Ok(Self {
            options,
            keys: ArcSwap::from_pointee(keys),
            refreshed: AsyncMutex::new(Instant::now()),
            verified: Mutex::new(LruCache::new(MAX_VERIFIED_TOKENS)),
        })
    }

    async fn check(&self, token: &str) -> Result<Arc<Identity>, Refusal> {
        let fingerprint = fingerprint(token);
        let known = self.verified.lock().get(&fingerprint).cloned();
        if let Some(known) = known
            && Instant::now() < known.until
        {
            return Ok(known.identity);
        }
        let header = decode_header(token).map_err(|_| invalid("the token is not a JSON Web Token"))?;
        if has_critical_header(token) {
            return Err(invalid(
                "the token has a critical header (crit), which this server does not understand",
            ));
        }
        // One call reads the keys; the others do not wait for a slow issuer.
        if let Ok(refreshed) = self.refreshed.try_lock() {
            self.refresh(refreshed, REFRESH_INTERVAL).await;
        }
        let key = match self.key(header.kid.as_deref()) {
            Some(key) => key,
            None => {
                // The issuer may have begun to sign with a new key.
                self.refresh(self.refreshed.lock().await, MIN_REFRESH_INTERVAL)
                    .await;
                self.key(header.kid.as_deref())
                    .ok_or_else(|| invalid("the token is signed with a key that is not in the key set"))?
            }
        };
        let (identity, expires) = self.verify(token, &key)?;
        let identity = Arc::new(identity);
        let until = Instant::now() + expires.min(VERIFIED_LIFETIME);
        let verified = VerifiedToken {
            identity: Arc::clone(&identity),
            until,
        };
        self.verified.lock().put(fingerprint, verified);
        Ok(identity)
    }

    fn key(&self, id: Option<&str>) -> Option<Key> {
        let keys = self.keys.load();
        match (id, keys.as_slice()) {
            (Some(id), keys) => keys.iter().find(|key| key.id.as_deref() == Some(id)).cloned(),
            (None, [only]) => Some(only.clone()),
            (None, _) => None,
        }
    }

    /// The identity, and the time until the token expires.
    fn verify(&self, token: &str, key: &Key) -> Result<(Identity, Duration), Refusal> {
        let mut validation = Validation::new(key.algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.options.issuer]);
        validation.set_audience(&self.options.audiences);
        validation.validate_nbf = true;
        let claims = decode::<Map<String, Value>>(token, &key.decoding, &validation)
            .map_err(|error| invalid(&reason(error.kind())))?
            .claims;
        let name = match claims.get(&self.options.identity_claim) {
            Some(Value::String(name)) if !name.is_empty() => name.clone(),
            _ => {
                return Err(invalid(&format!(
                    "the token has no text in the claim {:?}, which names the caller",
                    self.options.identity_claim
                )));
            }
        };
        let groups = match claims.get(&self.options.groups_claim) {
            Some(Value::Array(groups)) => groups
                .iter()
                .filter_map(|group| group.as_str().map(str::to_owned))
                .collect(),
            Some(Value::String(groups)) => groups.split_whitespace().map(str::to_owned).collect(),
            _ => Vec::new(),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let expires = claims.get("exp").and_then(Value::as_u64).unwrap_or_default();
        let identity = Identity {
            name,
            groups,
            method: AuthenticationMethod::Token,
        };
        Ok((identity, Duration::from_secs(expires).saturating_sub(now)))
    }

    /// Reads the keys again if they are older than `age`. If that fails, the old keys are kept: an issuer that is down
    /// must not stop every build.
    async fn refresh(&self, mut refreshed: MutexGuard<'_, Instant>, age: Duration) {
        if refreshed.elapsed() < age {
            return;
        }
        match self.options.keys.read().await {
            Ok(keys) => self.keys.store(Arc::new(keys)),
            Err(error) => tracing::error!(
                error = with_causes(&error),
                "cannot read the keys of tokens again; those from before are kept"
            ),
        }
        *refreshed = Instant::now();
    }
}

#[async_trait]
impl Authenticator for TokenAuthenticator {
    async fn authenticate(&self, credentials: &Credentials) -> Option<Result<Arc<Identity>, Refusal>> {
        match credentials {
            Credentials::Bearer(token) => Some(self.check(token.expose()).await),
            Credentials::Basic { .. } => None,
        }
    }
}

/// True if the header names parameters that the receiver must understand (RFC 7515, 4.1.11): nothing here does, and the
/// library passes over them.
fn has_critical_header(token: &str) -> bool {
    let header = token.split('.').next().unwrap_or_default();
    let header = BASE64_URL_SAFE_NO_PAD.decode(header).unwrap_or_default();
    let header = serde_json::from_slice::<Map<String, Value>>(&header);
    header.is_ok_and(|header| header.contains_key("crit"))
}

fn fingerprint(token: &str) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    fingerprint
}

fn invalid(reason: &str) -> Refusal {
    Refusal::Invalid(reason.to_owned())
}

/// Reason of a refusal in words, with nothing of the token's content.
fn reason(kind: &ErrorKind) -> String {
    match kind {
        ErrorKind::ExpiredSignature => "the token has expired".to_owned(),
        ErrorKind::ImmatureSignature => "the token is not valid yet; are the clocks right?".to_owned(),
        ErrorKind::InvalidSignature => "the token's signature is wrong".to_owned(),
        ErrorKind::InvalidIssuer => "the token is from another issuer".to_owned(),
        ErrorKind::InvalidAudience => "the token is for another audience".to_owned(),
        ErrorKind::InvalidAlgorithm => "the token's algorithm is not that of the key".to_owned(),
        ErrorKind::MissingRequiredClaim(claim) => format!("the token has no claim {claim:?}"),
        ErrorKind::InvalidClaimFormat(claim) => format!("the token's claim {claim:?} is malformed"),
        _ => "the token is not a JSON Web Token".to_owned(),
    }
}
