//! Paths relative to an input root.

use crate::error::Error;

/// Joins a directory and a name: `path/name`, or `name` at the root.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

/// Splits a relative path that stands in `field` of a Command.
pub(crate) fn components(field: &str, path: &str) -> Result<Vec<String>, Error> {
    let invalid = |reason: &str| Error::InvalidAction(format!("{field} {path:?} {reason}"));
    if path.is_empty() {
        return Ok(vec![]);
    }
    if path.contains('\0') {
        return Err(invalid("contains a NUL byte"));
    }
    if path.starts_with('/') {
        return Err(invalid("is absolute; it has to be relative to the input root"));
    }
    let components: Vec<String> = path.trim_end_matches('/').split('/').map(str::to_owned).collect();
    match components
        .iter()
        .find(|component| matches!(component.as_str(), "" | "." | ".."))
    {
        Some(component) => Err(invalid(&format!(
            "has the component {component:?}; write it in canonical form"
        ))),
        None => Ok(components),
    }
}
