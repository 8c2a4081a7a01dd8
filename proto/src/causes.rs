//! Errors in plain text, with their causes.

use tonic::Status;

/// An error and its causes in one line, for statuses and events, which hold no chain of sources.
pub fn with_causes(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).join(": ")
}

/// Messages of an error and of its causes, the outermost first, without repetitions.
///
/// A gRPC status is represented by its text alone, or by its code if it has none. Its `Display` shows the fields of the
/// type (`code: '…', message: "…", source: …`), which nobody but a programmer reads.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = as_status(error).map_or_else(|| error.to_string(), status_text);
        // Transparent wrappers and layers of a transport repeat the message of their source.
        if !messages.contains(&message) {
            messages.push(message);
        }
        next = error.source();
    }
    messages
}

/// Text of a status, or of its code if it has none.
pub fn status_text(status: &Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

/// The first gRPC status among an error and its causes.
pub fn find_status<'error>(error: &'error (dyn std::error::Error + 'static)) -> Option<&'error Status> {
    std::iter::successors(Some(error), |error| error.source()).find_map(as_status)
}

fn as_status<'error>(error: &'error (dyn std::error::Error + 'static)) -> Option<&'error Status> {
    let boxed = || error.downcast_ref::<Box<Status>>().map(|status| &**status);
    error.downcast_ref::<Status>().or_else(boxed)
}
