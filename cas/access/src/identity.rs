//! Identity of a caller.

use std::fmt;

/// Authentication method of a caller. Rules may require one, because names of different methods are assigned by
/// different people: the `ci` of a token is not the `ci` of a certificate unless a rule says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthenticationMethod {
    /// None: the caller has no credentials.
    Anonymous,
    /// A JSON Web Token.
    Token,
    /// Name and password.
    Password,
    /// A client certificate.
    Certificate,
}

/// Name and groups of a caller, as rules and logs use them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the caller, or `anonymous`. The method distinguishes that from a user of this name.
    pub name: String,
    /// Groups that the token or certificate names.
    pub groups: Vec<String>,
    /// Authentication method.
    pub method: AuthenticationMethod,
}

impl Identity {
    /// Identity of callers without credentials.
    pub fn anonymous() -> Self {
        Self {
            name: "anonymous".to_owned(),
            groups: Vec::new(),
            method: AuthenticationMethod::Anonymous,
        }
    }

    /// True if there were no credentials.
    pub fn is_anonymous(&self) -> bool {
        self.method == AuthenticationMethod::Anonymous
    }
}

impl fmt::Display for Identity {
    /// Writes `alice (token)` for logs and refusals. Control characters are escaped, since names come from outside.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            AuthenticationMethod::Anonymous => return formatter.write_str("anonymous"),
            AuthenticationMethod::Token => "token",
            AuthenticationMethod::Password => "password",
            AuthenticationMethod::Certificate => "certificate",
        };
        write!(formatter, "{} ({method})", self.name.escape_debug())
    }
}
