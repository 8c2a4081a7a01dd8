//! Log events for the person who runs a command.

/// Target of log events that this person must see although log lines are off: `bitzel build` prints them as messages.
pub const NOTICE: &str = "bitzel::notice";
