//! Errors in one line.

/// Formats an error with everything that led to it, in one line, for places without a chain of sources: statuses and
/// events.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text.push_str(": ");
        text.push_str(&source.to_string());
        cause = source.source();
    }
    text
}
