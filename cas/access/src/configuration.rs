//! The tables `[tls]`, `[access]` and `[limits]` of a configuration file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::access_layer::AccessLayer;
use crate::access_rules::AccessRules;
use crate::error::Error;
use crate::identity::AuthenticationMethod;
use crate::key_set::KeySource;
use crate::limits::{Limits, LimitsLayer};
use crate::pattern::Pattern;
use crate::permission::{Permission, PermissionSet};
use crate::policy::{AccessPolicy, Rule};
use crate::tls::{ServerTls, TlsOptions};
use crate::token_authenticator::TokenOptions;

/// Access rules as written in a file. Relative paths start at that file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessConfiguration {
    /// TLS of all listeners. Default: connections are not encrypted.
    pub tls: Option<TlsTable>,
    /// Authentication and permissions. Default: nobody may do anything.
    pub access: AccessTable,
    /// Limits per connection and per identity.
    pub limits: Limits,
}

/// `[tls]`: encryption of the listeners for clients and workers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsTable {
    /// PEM file of the server's certificate chain. It is read again when it changes.
    pub certificate: PathBuf,
    /// PEM file of the private key of `certificate`.
    pub key: PathBuf,
    /// PEM file of the certificate authorities for client certificates. Default: client certificates are not asked for.
    pub client_ca: Option<PathBuf>,
    /// Refuses clients without a certificate.
    #[serde(default)]
    pub client_certificate_required: bool,
}

/// `[access]`: callers and their permissions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AccessTable {
    /// Permissions of callers without credentials: words as in `allow` of a rule.
    pub anonymous: Vec<String>,
    /// Authentication by bearer tokens. Default: tokens are not accepted.
    pub tokens: Option<TokensTable>,
    /// File of user names and bcrypt hashes, as `htpasswd -B` writes it. Default: passwords are not accepted.
    pub passwords: Option<PathBuf>,
    /// Permissions of authenticated callers. A caller has those of every rule that matches.
    pub rules: Vec<RuleTable>,
}

/// `[access.tokens]`: JSON Web Tokens, as `OpenID` Connect providers issue them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokensTable {
    /// JSON Web Key Set with the provider's public keys: a path or an `https://` URL.
    pub keys: String,
    /// Issuer (`iss`) that a token must name.
    pub issuer: String,
    /// Audiences (`aud`). A token must name at least one of them.
    pub audiences: Vec<String>,
    /// Claim with the name of the caller.
    #[serde(default = "default_identity_claim")]
    pub identity_claim: String,
    /// Claim with the groups of the caller.
    #[serde(default = "default_groups_claim")]
    pub groups_claim: String,
}

/// `[[access.rules]]`: permissions of some callers on some instances.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleTable {
    /// Names of callers. `*` matches any text.
    #[serde(default)]
    pub identities: Vec<String>,
    /// Groups of callers. `*` matches any text.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Authentication methods that the rule is for. Default: all. Needed if it names callers or groups and the server accepts
    /// several methods, because each of them has names of its own.
    #[serde(default)]
    pub methods: Vec<AuthenticationMethod>,
    /// Instance names. `*` matches any text.
    #[serde(default = "everywhere")]
    pub instances: Vec<String>,
    /// Permissions: `cas-read`, `cas-write`, `ac-read`, `ac-write`, `execute`, `network`, `user-namespaces`, `priority`,
    /// `worker`, `admin`; `read` stands for all that only read, `all` for all.
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

/// Access control of a listener.
#[derive(Debug, Clone)]
pub struct ServerAccess {
    /// Layer that authenticates callers and applies the rules.
    pub layer: AccessLayer,
    /// Layer that enforces the limits of each identity. Belongs below `layer`.
    pub limits_layer: LimitsLayer,
    /// TLS; without it, connections are not encrypted.
    pub tls: Option<Arc<ServerTls>>,
    /// Limits that the listener and the HTTP/2 server enforce.
    pub limits: Limits,
}

impl ServerAccess {
    /// Allows everything to everybody, without TLS: for sockets that only trusted programs can reach.
    pub fn open() -> Self {
        Self::open_with(Limits::default())
    }

    /// Allows everything to everybody within limits, without TLS.
    pub fn open_with(limits: Limits) -> Self {
        Self {
            layer: AccessLayer::open(),
            limits_layer: LimitsLayer::new(&limits),
            tls: None,
            limits,
        }
    }
}

impl ServerAccess {
    /// Replaces the rules by those of another table `[access]`, with the certificates and limits that the server started
    /// with. On an error, the rules from before stay. `base` is the directory of the file.
    pub async fn replace_rules(&self, table: AccessTable, base: &Path) -> Result<(), Error> {
        let client_certificates = self.tls.as_ref().is_some_and(|tls| tls.asks_for_certificates());
        let present = self.layer.rules();
        let rules = AccessRules::open(table, base, client_certificates, Some(&present)).await?;
        self.layer.replace(rules);
        Ok(())
    }
}

impl AccessConfiguration {
    /// Reads the files that the configuration names. `base` is the directory of its own file.
    pub async fn open(self, base: &Path) -> Result<ServerAccess, Error> {
        let client_certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let rules = AccessRules::open(self.access, base, client_certificates, None).await?;
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
            layer: AccessLayer::with_rules(rules),
            limits_layer: LimitsLayer::new(&self.limits),
            tls,
            limits: self.limits,
        })
    }
}

impl AccessTable {
    /// Makes the rules. A policy that allows nobody anything is an error.
    pub(crate) fn policy(&self) -> Result<AccessPolicy, Error> {
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

impl AccessTable {
    /// Refuses rules for names that different people assign: where callers may authenticate in several ways, whoever has a
    /// user `ci` in the password file would have the permissions of the token `ci`.
    pub(crate) fn check_methods(&self, client_certificates: bool) -> Result<(), Error> {
        let methods = [
            (self.tokens.is_some(), "token"),
            (self.passwords.is_some(), "password"),
            (client_certificates, "certificate"),
        ];
        let methods: Vec<&str> = methods
            .into_iter()
            .filter_map(|(is_accepted, name)| is_accepted.then_some(name))
            .collect();
        if methods.len() < 2 {
            return Ok(());
        }
        for (number, rule) in self.rules.iter().enumerate() {
            let mut names = rule.identities.iter().chain(&rule.groups);
            let named = names.find(|name| *name != "*");
            if let Some(named) = named.filter(|_| rule.methods.is_empty()) {
                return Err(invalid(&format!(
                    "access.rules, rule {}: names {named:?}, which may be another caller for each method of \
                     authentication; add methods = [...] with those of {} that are meant",
                    number + 1,
                    methods.join(", ")
                )));
            }
        }
        Ok(())
    }
}

impl TokensTable {
    pub(crate) fn options(self, base: &Path) -> Result<TokenOptions, Error> {
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
        let granted = PermissionSet::parse(word).ok_or_else(|| {
            let names = Permission::ALL.map(Permission::name).join(", ");
            invalid(&format!(
                "{place}: {word:?} is no permission; there are {names}, and the words read and all"
            ))
        })?;
        Ok(set.union(granted))
    })
}

fn invalid(problem: &str) -> Error {
    Error::InvalidArgument(problem.to_owned())
}
