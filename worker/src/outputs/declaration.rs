//! Which outputs a Command declares.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use bitzel_proto::reapi::Command;
use bitzel_proto::reapi::command::OutputDirectoryFormat;

use crate::error::Error;
use crate::node_properties::WantedProperties;

/// What kind of node a declared output has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// Whatever is there (`output_paths`).
    Anything,
    /// A file or a symlink (`output_files`).
    File,
    /// A directory or a symlink (`output_directories`).
    Directory,
}

/// One declared output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredPath {
    /// As the Command gives it, relative to the working directory: the result repeats it.
    pub path: String,
    /// Relative to the input root.
    pub components: Vec<String>,
    /// What it has to be.
    pub expected: Expected,
}

/// All declared outputs and how they are to be returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputDeclaration {
    /// The outputs, in the order of the Command.
    pub paths: Vec<DeclaredPath>,
    /// The properties they carry.
    pub properties: WantedProperties,
    /// How directories are returned.
    pub directory_format: OutputDirectoryFormat,
}

impl OutputDeclaration {
    /// All paths relative to the input root.
    pub fn component_paths(&self) -> Vec<Vec<String>> {
        self.paths.iter().map(|path| path.components.clone()).collect()
    }

    /// Reads a Command. When it has `output_paths`, the older `output_files` and `output_directories` are ignored, as
    /// the specification asks.
    pub fn of_command(command: &Command) -> Result<Self, Error> {
        let working_directory = components("working_directory", &command.working_directory)?;
        let declare = |field, paths: &[String], expected| -> Result<Vec<DeclaredPath>, Error> {
            let declare = |path: &String| {
                let mut all = working_directory.clone();
                all.extend(components(field, path)?);
                Ok(DeclaredPath {
                    path: path.clone(),
                    components: all,
                    expected,
                })
            };
            paths.iter().map(declare).collect()
        };
        let paths = if command.output_paths.is_empty() {
            let mut paths = declare("output_files", &command.output_files, Expected::File)?;
            paths.extend(declare(
                "output_directories",
                &command.output_directories,
                Expected::Directory,
            )?);
            paths
        } else {
            declare("output_paths", &command.output_paths, Expected::Anything)?
        };
        // Formats that this worker does not know get the default.
        let directory_format = OutputDirectoryFormat::try_from(command.output_directory_format)
            .unwrap_or(OutputDirectoryFormat::TreeOnly);
        Ok(Self {
            paths,
            properties: WantedProperties::from_names(&command.output_node_properties)?,
            directory_format,
        })
    }
}

/// Splits a relative path of a Command.
pub fn components(field: &str, path: &str) -> Result<Vec<String>, Error> {
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
