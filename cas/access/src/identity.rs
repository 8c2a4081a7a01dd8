//! Who is calling.

use std::fmt;

/// How a caller proved who it is. Rules may ask for a particular way, because names from different ways are given out
/// by different people: the `ci` of a token is not the `ci` of a certificate unless a rule says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthenticationMethod {
    /// Not at all.
    Anonymous,
    /// A JSON Web Token.
    Token,
    /// Name and password.
    Password,
    /// A client certificate.
    Certificate,
}

/// A caller, as rules and logs know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name. `anonymous` for who has none; rules tell that from a user of this name by the method.
    pub name: String,
    /// Groups that the token or the certificate names.
    pub groups: Vec<String>,
    /// How this is known.
    pub method: AuthenticationMethod,
}

impl Identity {
    /// Somebody without credentials.
    pub fn anonymous() -> Self {
        Self {
            name: "anonymous".to_owned(),
            groups: Vec::new(),
            method: AuthenticationMethod::Anonymous,
        }
    }

    /// Whether there were no credentials.
    pub fn is_anonymous(&self) -> bool {
        self.method == AuthenticationMethod::Anonymous
    }
}

impl fmt::Display for Identity {
    /// `alice (token)`: for logs and refusals. Control characters are escaped, since names come from outside.
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
