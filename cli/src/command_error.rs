//! Errors of commands, as people see them.

use std::error::Error;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use bitzel_proto::chain;
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

use crate::visible_text::visible;

/// Failure of a command: the cause, excerpts of files that explain it, and the next step where there is one.
#[derive(Debug)]
pub(crate) struct CommandError {
    cause: Box<dyn Error + Send + Sync>,
    diagnostics: Vec<Box<dyn Diagnostic + Send + Sync>>,
    hint: Option<String>,
}

impl CommandError {
    /// Error with a message of our own.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            cause: message.into().into(),
            diagnostics: vec![],
            hint: None,
        }
    }

    /// Adds the next step.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds mistakes in a file, which are shown with the lines around them.
    pub(crate) fn diagnostics<D: Diagnostic + Send + Sync + 'static>(
        mut self,
        diagnostics: impl IntoIterator<Item = D>,
    ) -> Self {
        let boxed = |diagnostic| -> Box<dyn Diagnostic + Send + Sync> { Box::new(diagnostic) };
        self.diagnostics.extend(diagnostics.into_iter().map(boxed));
        self
    }

    /// Puts a message in front: the operation that failed. The message so far becomes its cause.
    pub(crate) fn context(self, message: impl Into<String>) -> Self {
        let cause = Box::new(InContext {
            message: message.into(),
            cause: self.cause,
        });
        Self { cause, ..self }
    }

    /// The cause and everything behind it.
    pub(crate) fn cause(&self) -> &(dyn Error + 'static) {
        &*self.cause
    }

    /// Prints the error to standard error, and returns the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let theme = match std::env::var_os("NO_COLOR") {
            _ if !io::stderr().is_terminal() => GraphicalTheme::none(),
            Some(value) if !value.is_empty() => GraphicalTheme::unicode_nocolor(),
            _ => GraphicalTheme::unicode(),
        };
        // With standard error gone there is nobody left to tell.
        io::stderr()
            .write_all(format!("error: {}", Rendered(self, theme)).as_bytes())
            .ok();
        ExitCode::FAILURE
    }
}

/// Several lines without colours: the message, its causes, the diagnostics, the hint.
impl fmt::Display for CommandError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Rendered(self, GraphicalTheme::none()).fmt(formatter)
    }
}

/// An error in the colours of a theme.
struct Rendered<'error>(&'error CommandError, GraphicalTheme);

impl fmt::Display for Rendered<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(error, theme) = self;
        // A server may have written parts of them.
        let mut messages = chain(error.cause()).into_iter();
        writeln!(formatter, "{}", visible(&messages.next().unwrap_or_default()))?;
        for cause in messages {
            writeln!(formatter, "  caused by: {}", visible(&cause))?;
        }
        // Lines that break anywhere else than in the file cannot be searched for.
        let handler = GraphicalReportHandler::new_themed(theme.clone()).with_wrap_lines(false);
        for diagnostic in &error.diagnostics {
            writeln!(formatter)?;
            handler.render_report(formatter, &**diagnostic)?;
        }
        if let Some(hint) = &error.hint {
            writeln!(formatter, "  hint: {hint}")?;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct InContext {
    message: String,
    cause: Box<dyn Error + Send + Sync>,
}

impl fmt::Display for InContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
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
            diagnostics: vec![],
            hint: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::{Code, Status};

    use super::*;

    #[test]
    fn shows_the_text_of_a_status() {
        let status = Status::permission_denied("no rule lets \"ci\" write");
        let error = bitzel_cas::Error::remote("asking grpc://farm:8980 for its capabilities")(status);
        assert_eq!(
            CommandError::from(error).hint("ask for a rule").to_string(),
            "asking grpc://farm:8980 for its capabilities\n  caused by: no rule lets \"ci\" write\n  hint: ask for a rule\n"
        );
    }

    #[test]
    fn shows_the_code_of_a_status_without_a_text() {
        let error = CommandError::from(Status::new(Code::Unavailable, "")).context("cannot build");
        assert_eq!(
            error.to_string(),
            "cannot build\n  caused by: The service is currently unavailable\n"
        );
    }
}
