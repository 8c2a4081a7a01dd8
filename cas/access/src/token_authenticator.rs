//! JSON Web Tokens (RFC 7519).

use std::num::NonZero;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Validation, decode, decode_header};
use lru::LruCache;
use parking_lot::Mutex;
use ring::digest;
use serde_json::{Map, Value};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};

use super::ring_signatures;
use crate::authenticator::{Authenticator, Refusal};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::identity::{AuthenticationMethod, Identity};
use crate::key_set::{Key, KeySource};
use bitzel_proto::with_causes;

/// How old keys may get before they are read again.
const REFRESH: Duration = Duration::from_mins(5);
/// Pause between two reads, whatever key ids clients make up.
const REFRESH_PAUSE: Duration = Duration::from_secs(10);
/// How long a token that was good is not checked again: that is how long a withdrawn key lives on.
const REMEMBERED: Duration = Duration::from_mins(1);
const REMEMBERED_TOKENS: NonZero<usize> = NonZero::new(4096).unwrap();

/// Which tokens are good, and what they say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenOptions {
    /// The keys that they are signed with.
    pub keys: KeySource,
    /// The `iss` that they must have.
    pub issuer: String,
    /// They must be for one of these (`aud`): a token for another service is none for this one.
    pub audiences: Vec<String>,
    /// The claim with the caller's name, `sub` for example.
    pub identity_claim: String,
    /// The claim with its groups: a list of texts, or one text with spaces between.
    pub groups_claim: String,
}

/// Checks bearer tokens.
#[derive(Debug)]
pub struct TokenAuthenticator {
    options: TokenOptions,
    keys: ArcSwap<Vec<Key>>,
    refreshed: AsyncMutex<Instant>,
    good: Mutex<LruCache<[u8; 32], Good>>,
}

/// A token that has been checked.
#[derive(Debug, Clone)]
struct Good {
    identity: Arc<Identity>,
    until: Instant,
}

impl TokenAuthenticator {
    /// Reads the keys. A server that could not check any token does not start.
    pub async fn open(options: TokenOptions) -> Result<Self, Error> {
        ring_signatures::install();
        let keys = options.keys.read().await?;
        Ok(Self {
            options,
            keys: ArcSwap::from_pointee(keys),
            refreshed: AsyncMutex::new(Instant::now()),
            good: Mutex::new(LruCache::new(REMEMBERED_TOKENS)),
        })
    }

    async fn check(&self, token: &str) -> Result<Arc<Identity>, Refusal> {
        let fingerprint = fingerprint(token);
        let known = self.good.lock().get(&fingerprint).cloned();
        if let Some(known) = known
            && Instant::now() < known.until
        {
            return Ok(known.identity);
        }
        let header = decode_header(token).map_err(|_| invalid("the token is not a JSON Web Token"))?;
        // One call reads them; the others need not wait for an issuer that is slow.
        if let Ok(refreshed) = self.refreshed.try_lock() {
            self.refresh(refreshed, REFRESH).await;
        }
        let key = match self.key(header.kid.as_deref()) {
            Some(key) => key,
            None => {
                // The issuer may have begun to sign with a new one.
                self.refresh(self.refreshed.lock().await, REFRESH_PAUSE).await;
                self.key(header.kid.as_deref())
                    .ok_or_else(|| invalid("the token is signed with a key that is not in the key set"))?
            }
        };
        let (identity, expires) = self.verify(token, &key)?;
        let identity = Arc::new(identity);
        let until = Instant::now() + expires.min(REMEMBERED);
        let good = Good {
            identity: Arc::clone(&identity),
            until,
        };
        self.good.lock().put(fingerprint, good);
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

    /// The identity, and for how long the token is still good.
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

    /// Reads the keys again if that was longer ago than `age`. When that fails, those from before are kept: an issuer
    /// that is down must not stop every build.
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

    /// As if keys and tokens were looked at longer ago than they were.
    #[cfg(test)]
    pub(super) async fn age(&self, by: Duration) {
        let mut refreshed = self.refreshed.lock().await;
        *refreshed = refreshed.checked_sub(by).expect("the machine is up for longer");
        self.good.lock().clear();
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

fn fingerprint(token: &str) -> [u8; 32] {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    fingerprint
}

fn invalid(reason: &str) -> Refusal {
    Refusal::Invalid(reason.to_owned())
}

/// In words, without anything that the token says.
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
