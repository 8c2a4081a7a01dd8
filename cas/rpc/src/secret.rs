//! Text that stays out of logs.

use std::fmt;

/// Text that no log line and no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for code that checks or sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("(secret)")
    }
}

/// A URL for messages, without the parts that may hold a secret: user and password, query, and fragment. The text need
/// not be a valid URL.
pub fn without_secrets(url: &str) -> String {
    let (scheme, rest) = match url.find("://") {
        Some(index) => url.split_at(index + "://".len()),
        None => ("", url),
    };
    // A password may contain any character, so all text before the last `@` is left out.
    let (mask, rest) = match rest.rfind('@') {
        Some(index) => ("***@", &rest[index + 1..]),
        None => ("", rest),
    };
    match rest.find(['?', '#']) {
        Some(index) => format!("{scheme}{mask}{}***", &rest[..=index]),
        None => format!("{scheme}{mask}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_for_messages_holds_no_secret() {
        for (url, shown) in [
            ("http://host:80/path", "http://host:80/path"),
            ("http://me:secret@host/path", "http://***@host/path"),
            ("http://me:se/c?r#e@t@host/path", "http://***@host/path"),
            ("me:secret@host", "***@host"),
            ("http://host/?token=secret", "http://host/?***"),
            ("http://me:secret@host:port/#secret", "http://***@host:port/#***"),
        ] {
            assert_eq!(without_secrets(url), shown);
        }
    }
}
