//! The outputs that a Command declares.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use std::collections::HashSet;

use bitzel_cas::directory_tree::MAX_DEPTH;
use bitzel_proto::reapi::Command;
use bitzel_proto::reapi::command::OutputDirectoryFormat;

use crate::error::Error;
use crate::node_properties::OutputProperties;
use crate::relative_path::resolve;

/// Number of outputs that a Command may declare.
const MAX_DECLARED_OUTPUTS: usize = 100_000;
/// Number of components that the paths of all declared outputs may have together, seen from the input root. Each may stand
/// for a directory to create.
const MAX_COMPONENTS: usize = 1_000_000;

/// The type of node that a declared output has to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedType {
    /// Any type (`output_paths`).
    Any,
    /// A file or a symlink (`output_files`).
    File,
    /// A directory or a symlink (`output_directories`).
    Directory,
}

/// One declared output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredOutput {
    /// Path in the Command, relative to the working directory. The result repeats it.
    pub path: String,
    /// Components of the path relative to the input root.
    pub components: Vec<String>,
    /// Type that the output has to have.
    pub expected: ExpectedType,
}

/// All declared outputs and the form in which they are returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputDeclaration {
    /// The outputs, in the order of the Command.
    pub outputs: Vec<DeclaredOutput>,
    /// Node properties that the outputs carry.
    pub properties: OutputProperties,
    /// Messages in which directories are returned.
    pub directory_format: OutputDirectoryFormat,
}

impl OutputDeclaration {
    /// The components of all paths, relative to the input root.
    pub fn component_paths(&self) -> Vec<Vec<String>> {
        self.outputs
            .iter()
            .map(|output| output.components.clone())
            .collect()
    }

    /// Reads a Command that starts in `working_directory`. If it has `output_paths`, the older `output_files` and
    /// `output_directories` are ignored, as the specification requires. It also requires that no path is declared twice.
    /// The order, which it prescribes for the digest of a Command alone, is not checked.
    pub fn of_command(command: &Command, working_directory: &[String]) -> Result<Self, Error> {
        let declared = [
            &command.output_paths,
            &command.output_files,
            &command.output_directories,
        ];
        let count: usize = declared.into_iter().map(Vec::len).sum();
        if count > MAX_DECLARED_OUTPUTS {
            return Err(Error::InvalidAction(format!(
                "the Command declares {count} outputs; at most {MAX_DECLARED_OUTPUTS} are allowed, so declare directories"
            )));
        }
        let mut free_components = MAX_COMPONENTS;
        let mut declare = |field, paths: &[String], expected| -> Result<Vec<DeclaredOutput>, Error> {
            let declare = |path: &String| {
                let components = resolve(working_directory, field, path)?;
                if components.len() > MAX_DEPTH {
                    let start: String = path.chars().take(100).collect();
                    return Err(Error::InvalidAction(format!(
                        "{field} {start:?}... is below more than {MAX_DEPTH} directories"
                    )));
                }
                free_components = free_components.checked_sub(components.len()).ok_or_else(|| {
                    Error::InvalidAction(format!(
                        "the paths of the declared outputs have more than {MAX_COMPONENTS} components together; declare \
                         directories"
                    ))
                })?;
                Ok(DeclaredOutput {
                    path: path.clone(),
                    components,
                    expected,
                })
            };
            paths.iter().map(declare).collect()
        };
        let paths = if command.output_paths.is_empty() {
            let mut paths = declare("output_files", &command.output_files, ExpectedType::File)?;
            paths.extend(declare(
                "output_directories",
                &command.output_directories,
                ExpectedType::Directory,
            )?);
            paths
        } else {
            declare("output_paths", &command.output_paths, ExpectedType::Any)?
        };
        refuse_duplicates(&paths)?;
        // Unknown formats get the default.
        let directory_format = OutputDirectoryFormat::try_from(command.output_directory_format)
            .unwrap_or(OutputDirectoryFormat::TreeOnly);
        Ok(Self {
            outputs: paths,
            properties: OutputProperties::from_names(&command.output_node_properties)?,
            directory_format,
        })
    }
}

/// Refuses outputs at the same path, which would be collected and returned several times.
fn refuse_duplicates(outputs: &[DeclaredOutput]) -> Result<(), Error> {
    let mut seen = HashSet::with_capacity(outputs.len());
    match outputs.iter().find(|output| !seen.insert(&output.components)) {
        None => Ok(()),
        Some(duplicate) => Err(Error::InvalidAction(format!(
            "the Command declares the output {:?} more than once; declare each path once",
            duplicate.path
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_too_many_declared_outputs() {
        let declare = |count| {
            let command = Command {
                output_paths: (0..count).map(|number| format!("d{number}")).collect(),
                ..Command::default()
            };
            OutputDeclaration::of_command(&command, &[])
        };
        assert_eq!(
            declare(MAX_DECLARED_OUTPUTS).unwrap().outputs.len(),
            MAX_DECLARED_OUTPUTS
        );
        let error = declare(MAX_DECLARED_OUTPUTS + 1).unwrap_err();
        assert!(matches!(error, Error::InvalidAction(_)), "{error}");
    }

    #[test]
    fn f22_refuses_deep_outputs_and_too_many_components() {
        let declare = |path: String, count| {
            let command = Command {
                output_paths: (0..count).map(|number| format!("{number}{path}")).collect(),
                ..Command::default()
            };
            OutputDeclaration::of_command(&command, &[]).map_err(|error| error.to_string())
        };
        let deep = |depth| vec!["d"; depth].join("/");
        assert!(declare(deep(MAX_DEPTH), 1).is_ok());
        let error = declare(deep(MAX_DEPTH + 1), 1).unwrap_err();
        assert!(error.contains("below more than 512 directories"), "{error}");
        assert!(declare(deep(100), 10_000).is_ok());
        let error = declare(deep(100), 10_001).unwrap_err();
        assert!(error.contains("more than 1000000 components"), "{error}");
    }

    #[test]
    fn refuses_an_output_that_is_declared_twice() {
        let paths = |paths: &[&str]| paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>();
        let declare = |output_paths, output_files, output_directories| {
            let command = Command {
                output_paths: paths(output_paths),
                output_files: paths(output_files),
                output_directories: paths(output_directories),
                ..Command::default()
            };
            OutputDeclaration::of_command(&command, &["w".to_owned()]).map_err(|error| error.to_string())
        };
        assert!(declare(&["b", "a", "a/b"], &[], &[]).is_ok());
        assert!(declare(&[], &["a"], &["b", "b/c"]).is_ok());
        for duplicates in [
            declare(&["a", "b", "a"], &[], &[]),
            declare(&[], &["a", "a"], &[]),
            declare(&[], &[], &["a", "a"]),
            declare(&[], &["a"], &["a"]),
        ] {
            let error = duplicates.unwrap_err();
            assert!(
                error.contains("declares the output \"a\" more than once"),
                "{error}"
            );
        }
    }
}
