//! Paths relative to an input root.

use bitzel_launcher::INPUT_ROOT;

use crate::error::Error;

/// `NAME_MAX` of `<linux/limits.h>`.
const MAX_NAME_BYTES: usize = 255;
/// `PATH_MAX` of `<linux/limits.h>`, without the NUL at the end.
pub(crate) const MAX_PATH_BYTES: usize = 4095;
/// Characters of a path that a message shows.
const MAX_SHOWN_CHARACTERS: usize = 1000;
/// Longest path relative to the input root, so that its absolute path in a sandbox is not too long.
const MAX_RELATIVE_PATH_BYTES: usize = MAX_PATH_BYTES - INPUT_ROOT.len() - 1;

/// Joins a directory and a name: `path/name`, or `name` at the root.
pub(crate) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}/{name}")
    }
}

/// Resolves a path that stands in `field` of a Command and starts at the directory `base` of the input root.
///
/// Clients write `.`, `..` and empty components: `BuildStream` declares its working directory as the output `.`, Bazel's Go
/// SDK outputs as `../out`. They are resolved without a look at the file system: `link/..` is the directory of the link,
/// wherever the link leads. A path that leaves the input root, even to come back, is refused, and so is one that no file
/// can have.
pub(crate) fn resolve(base: &[String], field: &str, path: &str) -> Result<Vec<String>, Error> {
    let invalid = |reason: &str| {
        let shown: String = path.chars().take(MAX_SHOWN_CHARACTERS).collect();
        let more = if shown.len() < path.len() { "..." } else { "" };
        Error::InvalidAction(format!("{field} {shown:?}{more} {reason}"))
    };
    if path.contains('\0') {
        return Err(invalid("contains a NUL byte"));
    }
    if path.starts_with('/') {
        return Err(invalid("is absolute; it has to be relative to the input root"));
    }
    let mut resolved = base.to_vec();
    for component in path.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                resolved.pop().ok_or_else(|| {
                    invalid("leads out of the input root; remove the \"..\" that are too many")
                })?;
            }
            name if name.len() > MAX_NAME_BYTES => {
                return Err(invalid(&format!(
                    "has a component of more than {MAX_NAME_BYTES} bytes"
                )));
            }
            name => resolved.push(name.to_owned()),
        }
    }
    let names: usize = resolved.iter().map(String::len).sum();
    if names + resolved.len().saturating_sub(1) > MAX_RELATIVE_PATH_BYTES {
        return Err(invalid(&format!(
            "is longer than {MAX_RELATIVE_PATH_BYTES} bytes, seen from the input root"
        )));
    }
    Ok(resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(base: &[&str], path: &str) -> String {
        let base: Vec<String> = base.iter().map(|&name| name.to_owned()).collect();
        match resolve(&base, "output_paths", path) {
            Ok(components) => format!("/{}", components.join("/")),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn resolves_paths_as_a_shell_does() {
        for (base, path, expected) in [
            (&[][..], "", "/"),
            (&[], ".", "/"),
            (&[], "./a//b/", "/a/b"),
            (&[], "a/..", "/"),
            (&["sub"], "", "/sub"),
            (&["sub"], ".", "/sub"),
            (&["sub"], "out", "/sub/out"),
            (&["sub"], "../o2.txt", "/o2.txt"),
            (&["a", "b"], "../../c/./../d", "/d"),
            (&["sub"], "..", "/"),
            (&[], "...", "/..."),
        ] {
            assert_eq!(resolved(base, path), expected, "{base:?} {path}");
        }
    }

    #[test]
    fn refuses_paths_that_leave_the_input_root() {
        for (base, path) in [
            (&[][..], ".."),
            (&[], "../x"),
            (&[], "a/../../a"),
            (&["sub"], "../../sub/x"),
            (&["sub"], "x/../../../etc/passwd"),
        ] {
            let message = resolved(base, path);
            assert!(
                message.contains("leads out of the input root"),
                "{base:?} {path}: {message}"
            );
        }
        assert!(resolved(&["sub"], "/etc").contains("is absolute"));
        assert!(resolved(&[], "a\0b").contains("contains a NUL byte"));
    }

    #[test]
    fn refuses_paths_that_no_file_can_have() {
        let (longest, longer) = ("n".repeat(255), "n".repeat(256));
        assert_eq!(resolved(&[], &longest), format!("/{longest}"));
        assert!(resolved(&[], &longer).contains("a component of more than 255 bytes"));
        let deep = vec![longest; 15].join("/");
        let at_limit = format!("{deep}/{}", "n".repeat(MAX_RELATIVE_PATH_BYTES - deep.len() - 1));
        assert_eq!(resolved(&[], &at_limit), format!("/{at_limit}"));
        let message = resolved(&["s"], &at_limit);
        assert!(message.contains("is longer than 4089 bytes"), "{message}");
        assert!(message.len() < 1200, "{message}");
    }
}
