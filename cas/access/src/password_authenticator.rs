//! Names and passwords from a file as `htpasswd -B` writes it.

mod password_checks;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bitzel_proto::with_causes;
use bitzel_rpc::WatchedFiles;
use lru::LruCache;
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;
use tokio::time::Instant;

use crate::authenticator::{Authenticator, Refusal};
use crate::credentials::Credentials;
use crate::error::Error;
use crate::identity::{AuthenticationMethod, Identity};

use self::password_checks::PasswordChecks;

/// Time for which a verified password is not checked again: bcrypt is slow on purpose.
const VERIFIED_LIFETIME: Duration = Duration::from_mins(5);
/// Passwords that are remembered as verified.
const MAX_VERIFIED_PASSWORDS: NonZero<usize> = NonZero::new(1024).unwrap();

/// Authenticator by name and password.
#[derive(Debug)]
pub struct PasswordAuthenticator {
    path: PathBuf,
    watched: WatchedFiles,
    users: ArcSwap<HashMap<String, String>>,
    checks: Arc<PasswordChecks>,
    /// Key of this process for the fingerprints below, which are useless to other processes.
    key: hmac::Key,
    /// Fingerprints of verified passwords, with the time of the check.
    verified: Mutex<LruCache<Vec<u8>, Instant>>,
}

impl PasswordAuthenticator {
    /// Reads the file. It is read again when it changes.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let watched = WatchedFiles::new(vec![path.to_owned()]);
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .map_err(|_| Error::InvalidArgument("the system has no random numbers".to_owned()))?;
        Ok(Self {
            users: ArcSwap::from_pointee(read(path)?),
            watched,
            path: path.to_owned(),
            checks: Arc::default(),
            key,
            verified: Mutex::new(LruCache::new(MAX_VERIFIED_PASSWORDS)),
        })
    }

    async fn check(
        &self,
        name: &str,
        password: &str,
        address: Option<IpAddr>,
    ) -> Result<Arc<Identity>, Refusal> {
        if self.watched.changed() {
            match read(&self.path) {
                Ok(users) => self.users.store(Arc::new(users)),
                Err(error) => tracing::error!(
                    error = with_causes(&error),
                    "cannot read the passwords again; those from before are kept"
                ),
            }
        }
        let users = self.users.load_full();
        let known = users.contains_key(name);
        // An unknown name takes as long as a known one with a wrong password.
        let hash = users.get(name).or_else(|| users.values().next()).cloned();
        let hash = hash.unwrap_or_default();
        // With the hash, so that a changed password is forgotten at once.
        let fingerprint = hmac::sign(&self.key, format!("{name}\0{hash}\0{password}").as_bytes());
        let fingerprint = fingerprint.as_ref().to_vec();
        let verified_at = self.verified.lock().get(&fingerprint).copied();
        if verified_at.is_none_or(|at| at.elapsed() >= VERIFIED_LIFETIME) {
            let password = password.to_owned();
            let verify = move || bcrypt::verify(password, &hash).unwrap_or(false);
            let verified = self.checks.run(fingerprint.clone(), address, verify).await?;
            if !(known && verified) {
                return Err(Refusal::Invalid("name or password is wrong".to_owned()));
            }
            self.verified.lock().put(fingerprint, Instant::now());
        }
        Ok(Arc::new(Identity {
            name: name.to_owned(),
            groups: Vec::new(),
            method: AuthenticationMethod::Password,
        }))
    }
}

#[async_trait]
impl Authenticator for PasswordAuthenticator {
    async fn authenticate(&self, credentials: &Credentials) -> Option<Result<Arc<Identity>, Refusal>> {
        self.authenticate_from(credentials, None).await
    }

    async fn authenticate_from(
        &self,
        credentials: &Credentials,
        address: Option<IpAddr>,
    ) -> Option<Result<Arc<Identity>, Refusal>> {
        match credentials {
            Credentials::Basic { name, password } => Some(self.check(name, password.expose(), address).await),
            Credentials::Bearer(_) => None,
        }
    }
}

/// Reads lines of `name:hash`; `#` begins a comment.
fn read(path: &Path) -> Result<HashMap<String, String>, Error> {
    let text = std::fs::read_to_string(path).map_err(Error::io(|| {
        format!("cannot read passwords from {}", path.display())
    }))?;
    let mut users = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let invalid =
            |what: &str| Error::InvalidArgument(format!("{}, line {}: {what}", path.display(), number + 1));
        let (name, hash) = line
            .split_once(':')
            .ok_or_else(|| invalid("is not of the form name:hash"))?;
        if name.is_empty() {
            return Err(invalid("has no name"));
        }
        hash.parse::<bcrypt::HashParts>()
            .map_err(|_| invalid("is not a bcrypt hash; write it with `htpasswd -B`"))?;
        if users.insert(name.to_owned(), hash.to_owned()).is_some() {
            return Err(invalid(&format!("has {name:?} for a second time")));
        }
    }
    Ok(users)
}
