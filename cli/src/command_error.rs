//! What people see when a command fails.

use std::error::Error;
use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// A failed command: what went wrong, and what to do about it where that is known.
#[derive(Debug)]
pub(crate) struct CommandError {
    cause: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

impl CommandError {
    /// A failure of our own words.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            cause: message.into().into(),
            hint: None,
        }
    }

    /// Adds what the user can do.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Says what was being done; what went wrong becomes the cause.
    pub(crate) fn context(self, what: impl Into<String>) -> Self {
        Self {
            cause: Box::new(InContext {
                what: what.into(),
                cause: self.cause,
            }),
            hint: self.hint,
        }
    }

    /// Prints the chain of causes and the hint, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        // With standard error gone there is nobody left to tell.
        io::stderr().write_all(format!("error: {self}").as_bytes()).ok();
        ExitCode::FAILURE
    }
}

/// Several lines: what went wrong, the chain of causes, the hint.
impl fmt::Display for CommandError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}", self.cause)?;
        let mut source = self.cause.source();
        let mut before = self.cause.to_string();
        while let Some(cause) = source {
            let message = cause.to_string();
            // Transparent wrappers say the same twice.
            if message != before {
                writeln!(formatter, "  caused by: {message}")?;
            }
            before = message;
            source = cause.source();
        }
        if let Some(hint) = &self.hint {
            writeln!(formatter, "  hint: {hint}")?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct InContext {
    what: String,
    cause: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for InContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)
    }
}

impl Error for InContext {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

impl<E: Error + Send + Sync + 'static> From<E> for CommandError {
    fn from(error: E) -> Self {
        Self {
            cause: Box::new(error),
            hint: None,
        }
    }
}
