//! Rules of a server with the authenticators that they are for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::authenticator::Authenticator;
use crate::configuration::{AccessTable, TokensTable};
use crate::error::Error;
use crate::password_authenticator::PasswordAuthenticator;
use crate::policy::AccessPolicy;
use crate::token_authenticator::TokenAuthenticator;

/// Rules of a server with the authenticators that they are for, as a table `[access]` has them.
#[derive(Debug)]
pub(crate) struct AccessRules {
    pub(crate) policy: Arc<AccessPolicy>,
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    /// Authenticator of tokens, with the settings that it was opened with.
    tokens: Option<(TokensTable, Arc<TokenAuthenticator>)>,
    /// Authenticator of passwords, with its file.
    passwords: Option<(PathBuf, Arc<PasswordAuthenticator>)>,
}

impl AccessRules {
    /// Rules that no file has.
    pub(crate) fn fixed(policy: AccessPolicy, authenticators: Vec<Arc<dyn Authenticator>>) -> Self {
        Self {
            policy: Arc::new(policy),
            authenticators,
            tokens: None,
            passwords: None,
        }
    }

    /// Checks a table, and opens its authenticators. `base` is the directory of the file, and `client_certificates` says
    /// that the listener asks for them. Authenticators of `present` whose settings are the same are taken over, so that a
    /// new rule neither waits for an issuer of tokens nor fails without it.
    pub(crate) async fn open(
        table: AccessTable,
        base: &Path,
        client_certificates: bool,
        present: Option<&Self>,
    ) -> Result<Self, Error> {
        let policy = table.policy()?;
        table.check_methods(client_certificates)?;
        let has_method = table.tokens.is_some() || table.passwords.is_some() || client_certificates;
        if !policy.rules.is_empty() && !has_method {
            return Err(Error::InvalidArgument(
                "access.rules are for callers that authenticate, and there is no way to: add access.tokens, \
                 access.passwords or tls.client_ca"
                    .to_owned(),
            ));
        }
        let tokens = match table.tokens {
            Some(settings) => Some(Self::tokens(settings, base, present).await?),
            None => None,
        };
        let passwords = match table.passwords {
            Some(path) => Some(Self::passwords(base.join(path), present)?),
            None => None,
        };
        let mut authenticators: Vec<Arc<dyn Authenticator>> = vec![];
        if let Some((_, tokens)) = &tokens {
            authenticators.push(tokens.clone());
        }
        if let Some((_, passwords)) = &passwords {
            authenticators.push(passwords.clone());
        }
        Ok(Self {
            policy: Arc::new(policy),
            authenticators,
            tokens,
            passwords,
        })
    }

    async fn tokens(
        settings: TokensTable,
        base: &Path,
        present: Option<&Self>,
    ) -> Result<(TokensTable, Arc<TokenAuthenticator>), Error> {
        let present = present.and_then(|rules| rules.tokens.clone());
        if let Some(same) = present.filter(|(present, _)| *present == settings) {
            return Ok(same);
        }
        let authenticator = TokenAuthenticator::open(settings.clone().options(base)?).await?;
        Ok((settings, Arc::new(authenticator)))
    }

    fn passwords(
        path: PathBuf,
        present: Option<&Self>,
    ) -> Result<(PathBuf, Arc<PasswordAuthenticator>), Error> {
        let present = present.and_then(|rules| rules.passwords.clone());
        if let Some(same) = present.filter(|(present, _)| *present == path) {
            return Ok(same);
        }
        let authenticator = PasswordAuthenticator::open(&path)?;
        Ok((path, Arc::new(authenticator)))
    }
}
