//! Standard error, shared by messages and the status line of a build.

use std::io::{self, Write as _};
use std::sync::{Mutex, PoisonError};

use indicatif::ProgressBar;

use crate::visible_text::visible;

/// The status line on the terminal, if one is shown. Messages are printed above it.
static STATUS_LINE: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Prints lines to standard error, control characters in visible form.
pub(crate) fn print(text: &str) {
    let text = visible(text);
    let status_line = STATUS_LINE.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match status_line {
        Some(status_line) => status_line.println(&text),
        // With standard error gone there is nobody left to tell.
        None => _ = writeln!(io::stderr(), "{text}"),
    }
}

/// Prints a warning: something that the user should know and that does not end the command.
pub(crate) fn warn(text: &str) {
    print(&format!("warning: {text}"));
}

/// Shows messages above `status_line` from now on, or without a status line.
pub(crate) fn set_status_line(status_line: Option<ProgressBar>) {
    *STATUS_LINE.lock().unwrap_or_else(PoisonError::into_inner) = status_line;
}
