//! Failed steps on the way to a command.

use std::fmt::Display;
use std::io;

use bitzel_launcher::LaunchReport;

/// A step that failed, and the system's reason.
#[derive(Debug)]
pub(crate) struct Failure {
    step: String,
    source: io::Error,
}

impl Failure {
    /// A failure with a reason of the launcher's own.
    pub(crate) fn new(step: impl Display, reason: impl Into<String>) -> Self {
        Self {
            step: step.to_string(),
            source: io::Error::other(reason.into()),
        }
    }
}

impl From<Failure> for LaunchReport {
    fn from(failure: Failure) -> Self {
        Self::Failed {
            step: failure.step,
            errno: failure.source.raw_os_error(),
            reason: failure.source.to_string(),
        }
    }
}

/// Names the step that an error belongs to.
pub(crate) trait InStep<T> {
    /// The same result; an error says that `step` failed. `step` is formatted only then.
    fn in_step(self, step: impl Display) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> InStep<T> for Result<T, E> {
    fn in_step(self, step: impl Display) -> Result<T, Failure> {
        self.map_err(|error| Failure {
            step: step.to_string(),
            source: error.into(),
        })
    }
}
