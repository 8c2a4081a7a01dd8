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

/// Resolves a path that stands in `field` of a Command and starts at the directory `base` of the input root.
///
/// Clients write `.`, `..` and empty components: `BuildStream` declares its working directory as the output `.`, Bazel's Go
/// SDK outputs as `../out`. They are resolved without a look at the file system: `link/..` is the directory of the link,
/// wherever the link leads. A path that leaves the input root, even to come back, is refused.
pub(crate) fn resolve(base: &[String], field: &str, path: &str) -> Result<Vec<String>, Error> {
    let invalid = |reason: &str| Error::InvalidAction(format!("{field} {path:?} {reason}"));
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
            name => resolved.push(name.to_owned()),
        }
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
}
