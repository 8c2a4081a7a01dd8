//! The tables `[tls]`, `[access]` and `[limits]` of a configuration file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::access_layer::AccessLayer;
use crate::authenticator::Authenticator;
use crate::error::Error;
use crate::identity::AuthenticationMethod;
use crate::key_set::KeySource;
use crate::limits::{Limits, LimitsLayer};
use crate::password_authenticator::PasswordAuthenticator;
use crate::pattern::Pattern;
use crate::permission::PermissionSet;
use crate::policy::{AccessPolicy, Rule};
use crate::tls::{ServerTls, TlsOptions};
use crate::token_authenticator::{TokenAuthenticator, TokenOptions};

/// Who gets in, as it is written in a file. Relative paths are relative to that file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfiguration {
    /// Certificates; without them, connections are not encrypted.
    pub tls: Option<TlsTable>,
    /// Callers and what they may do.
    pub access: AccessTable,
    /// What one caller may take from the others.
    pub limits: Limits,
}

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsTable {
    /// PEM file of the server's certificate chain.
    pub certificate: PathBuf,
    /// PEM file of its key.
    pub key: PathBuf,
    /// PEM file of the authorities for client certificates.
    pub client_ca: Option<PathBuf>,
    /// Whether clients have to show one.
    #[serde(default)]
    pub client_certificate_required: bool,
}

/// `[access]`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AccessTable {
    /// What callers without credentials may do: words as in `allow` of a rule. Nothing, unless it says so.
    pub anonymous: Vec<String>,
    /// Bearer tokens.
    pub tokens: Option<TokensTable>,
    /// File of names and bcrypt hashes, as `htpasswd -B` writes it.
    pub passwords: Option<PathBuf>,
    /// What authenticated callers may do.
    pub rules: Vec<RuleTable>,
}

/// `[access.tokens]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensTable {
    /// JSON Web Key Set: a path or an https URL.
    pub keys: String,
    /// The issuer that tokens have to name.
    pub issuer: String,
    /// The audiences, one of which tokens have to name.
    pub audiences: Vec<String>,
    /// The claim that names the caller.
    #[serde(default = "default_identity_claim")]
    pub identity_claim: String,
    /// The claim that lists its groups.
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
}

/// `[[access.rules]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleTable {
    /// Names of callers, with `*` as wildcard.
    #[serde(default)]
    pub identities: Vec<String>,
    /// Groups of callers.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Ways to authenticate that the rule is for; all, if there are none.
    #[serde(default)]
    pub methods: Vec<AuthenticationMethod>,
    /// Instance names; all, unless it says otherwise.
    #[serde(default = "everywhere")]
    pub instances: Vec<String>,
    /// Permissions, `read` or `all`.
    pub allow: Vec<String>,
}

fn default_identity_claim() -> String {
    "sub".to_owned()
}

fn default_groups_claim() -> String {
    "groups".to_owned()
}

fn everywhere() -> Vec<String> {
    vec!["*".to_owned()]
}

/// What a listener needs to let the right ones in.
#[derive(Debug, Clone)]
pub struct ServerAccess {
    /// Authentication and rules.
    pub layer: AccessLayer,
    /// Goes below `layer`.
    pub limits_layer: LimitsLayer,
    /// TLS, if connections are to be encrypted.
    pub tls: Option<Arc<ServerTls>>,
    /// Those that the listener and the HTTP/2 server keep.
    pub limits: Limits,
}

impl ServerAccess {
    /// Everybody may do everything, without TLS: for sockets that only trusted programs can reach.
    pub fn open() -> Self {
        Self::open_with(Limits::default())
    }

    /// The same within limits.
    pub fn open_with(limits: Limits) -> Self {
        Self {
            layer: AccessLayer::open(),
            limits_layer: LimitsLayer::new(&limits),
            tls: None,
            limits,
        }
    }
}

impl AccessConfiguration {
    /// Reads everything that the configuration names. `base` is the directory of its file.
    pub async fn open(self, base: &Path) -> Result<ServerAccess, Error> {
        let policy = self.access.policy()?;
        let client_certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let mut authenticators: Vec<Arc<dyn Authenticator>> = Vec::new();
        if let Some(tokens) = self.access.tokens {
            authenticators.push(Arc::new(TokenAuthenticator::open(tokens.options(base)?).await?));
        }
        if let Some(passwords) = self.access.passwords {
            authenticators.push(Arc::new(PasswordAuthenticator::open(&base.join(passwords))?));
        }
        if !policy.rules.is_empty() && authenticators.is_empty() && !client_certificates {
            return Err(invalid(
                "access.rules are for callers that authenticate, and there is no way to: add access.tokens, \
                 access.passwords or tls.client_ca",
            ));
        }
        let tls = match self.tls {
            Some(tls) => Some(Arc::new(ServerTls::open(TlsOptions {
                certificate: base.join(tls.certificate),
                key: base.join(tls.key),
                client_ca: tls.client_ca.map(|path| base.join(path)),
                client_certificate_required: tls.client_certificate_required,
            })?)),
            None => None,
        };
        Ok(ServerAccess {
            layer: AccessLayer::new(policy, authenticators),
            limits_layer: LimitsLayer::new(&self.limits),
            tls,
            limits: self.limits,
        })
    }
}

impl AccessTable {
    /// The rules. A policy that lets nobody in is a mistake.
    fn policy(&self) -> Result<AccessPolicy, Error> {
        let anonymous = permissions("access.anonymous", &self.anonymous)?;
        let mut rules = Vec::with_capacity(self.rules.len());
        for (number, rule) in self.rules.iter().enumerate() {
            let place = format!("access.rules, rule {}", number + 1);
            if rule.identities.is_empty() && rule.groups.is_empty() {
                return Err(invalid(&format!(
                    "{place}: names neither identities nor groups; write identities = [\"*\"] for everybody who \
                     authenticates"
                )));
            }
            if rule.allow.is_empty() {
                return Err(invalid(&format!("{place}: allows nothing")));
            }
            let patterns = |texts: &[String]| texts.iter().map(Pattern::new).collect();
            rules.push(Rule {
                identities: patterns(&rule.identities),
                groups: patterns(&rule.groups),
                methods: rule.methods.clone(),
                instances: patterns(&rule.instances),
                allow: permissions(&format!("{place}, allow"), &rule.allow)?,
            });
        }
        if rules.is_empty() && anonymous.is_empty() {
            return Err(invalid(
                "nobody could do anything: add access.rules, or access.anonymous = [\"read\"]",
            ));
        }
        Ok(AccessPolicy { rules, anonymous })
    }
}

impl TokensTable {
    fn options(self, base: &Path) -> Result<TokenOptions, Error> {
        if self.audiences.is_empty() {
            return Err(invalid("access.tokens.audiences: name at least one"));
        }
        let keys = match KeySource::parse(&self.keys)? {
            KeySource::File(path) => KeySource::File(base.join(path)),
            url @ KeySource::Url(_) => url,
        };
        Ok(TokenOptions {
            keys,
            issuer: self.issuer,
            audiences: self.audiences,
            identity_claim: self.identity_claim,
            groups_claim: self.groups_claim,
        })
    }
}

fn permissions(place: &str, words: &[String]) -> Result<PermissionSet, Error> {
    words.iter().try_fold(PermissionSet::EMPTY, |set, word| {
        let granted = PermissionSet::of_word(word).ok_or_else(|| {
            invalid(&format!(
                "{place}: {word:?} is no permission; there are cas-read, cas-write, ac-read, ac-write, execute, \
                 worker, admin, and the words read and all"
            ))
        })?;
        Ok(set.union(granted))
    })
}

fn invalid(problem: &str) -> Error {
    Error::InvalidArgument(problem.to_owned())
}
