//! Variables of the user's environment that `BitBake` gets.

use std::collections::BTreeMap;

/// Variables that are never passed on, whatever the user lists. The sandbox has its own value, or the value has a meaning
/// only in the user's login session, in which no task runs, and would give every session other snapshots.
const WITHHELD_VARIABLES: [&str; 18] = [
    "BBPATH",
    "BBSERVER",
    "BUILDDIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "HOME",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "PATH",
    "PWD",
    "SHELL",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "TERM",
    "USER",
    "XAUTHORITY",
    "XDG_RUNTIME_DIR",
];

/// Selects the variables that the user's `BB_ENV_PASSTHROUGH` and `BB_ENV_PASSTHROUGH_ADDITIONS` list, and adds the list
/// itself, as `bb.utils.approved_variables` reads it.
pub(crate) fn passed_through(environment: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut passed = BTreeMap::new();
    for list in ["BB_ENV_PASSTHROUGH", "BB_ENV_PASSTHROUGH_ADDITIONS"] {
        let names = environment
            .get(list)
            .map_or("", String::as_str)
            .split_whitespace();
        for name in names.filter(|name| !WITHHELD_VARIABLES.contains(name)) {
            if let Some(value) = environment.get(name) {
                passed.insert(name.to_owned(), value.clone());
            }
        }
    }
    if !passed.is_empty() {
        let names = passed.keys().map(String::as_str).collect::<Vec<_>>().join(" ");
        passed.insert("BB_ENV_PASSTHROUGH_ADDITIONS".to_owned(), names);
    }
    passed
}

#[cfg(test)]
mod tests;
