//! Conversion of the changes of a command to REAPI outputs.
//!
//! The upper directory of the overlay holds exactly the changes of the command. An output is the known input tree merged
//! with them: unchanged files are neither read nor hashed, and an unchanged directory keeps its Directory message byte
//! for byte.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use std::path::PathBuf;

use bitzel_cas::{BlobSource, DirectoryTree};
use bitzel_proto::reapi::command::OutputDirectoryFormat;
use bitzel_proto::reapi::{ActionResult, OutputDirectory, OutputFile, OutputSymlink};
use bitzel_proto::{Digest, DigestFunction};
use tokio_util::sync::CancellationToken;

use crate::bounds::Bounds;
use crate::error::Error;
use crate::file_cache::{FileCache, FileKey, OutputCopy};
use crate::result_size::{ResultSize, check_result_size};

mod changed_file;
mod declaration;
mod directory_builder;
mod file_digest;
mod hashed_files;
mod merged_tree;
mod opening;
mod output_parents;
mod scan;
mod undeclared_writes;
mod upper_directory;

pub use declaration::{DeclaredOutput, ExpectedType, OutputDeclaration};
use directory_builder::{DirectoryBuilder, OutputBudget};
pub(crate) use file_digest::hash_file;
use hashed_files::{HashedFiles, check_size};
use merged_tree::MergedTree;
pub use output_parents::create_output_parents;
use scan::{ScannedNode, Scanner};
pub use undeclared_writes::{UndeclaredWrites, find_undeclared_writes};
pub use upper_directory::derive_upper_directory;

/// The outputs of a command.
#[derive(Debug, Default)]
pub struct Outputs {
    /// A result in which only the output fields are set.
    pub result: ActionResult,
    /// Blobs that the result refers to and that are not in the input root. May name a blob twice.
    pub blobs: Vec<(Digest, BlobSource)>,
    /// Copies of changed files, from which those are uploaded, with their keys as inputs at the same path.
    pub copies: Vec<(FileKey, OutputCopy)>,
}

/// Collects the declared outputs from `upper`, the upper directory of the overlay, on top of the input `tree`.
///
/// Outputs that do not exist are left out. More than the `bounds` allow are refused before anything is hashed. Changed files are copied for the `cache`. Blocks and hashes in parallel; ends
/// early with [`Error::Cancelled`].
pub fn collect_outputs(
    function: DigestFunction,
    tree: &DirectoryTree,
    upper: PathBuf,
    declaration: &OutputDeclaration,
    bounds: &Bounds,
    cache: Option<&FileCache>,
    cancellation: &CancellationToken,
) -> Result<Outputs, Error> {
    let merged = MergedTree::new(tree, upper);
    let mut scanner = Scanner::new(&merged, bounds.output_entries, cancellation);
    let mut scanned = vec![];
    // Before all targets of symlinks are in memory. The exact size follows.
    let mut inlined = ResultSize::default();
    for output in &declaration.outputs {
        if let Some(node) = scanner.scan(&output.components)? {
            let target = match &node {
                ScannedNode::Symlink(symlink) => symlink.target.len(),
                _ => 0,
            };
            inlined.add(&output.path, output.path.len().saturating_add(target))?;
            scanned.push((output, node));
        }
    }
    let symlink_bytes = scanner.symlink_bytes();
    let changed = scanner.into_changed_files();
    let allowed = bounds.output_bytes;
    let budget = OutputBudget {
        used: check_size(&changed, symlink_bytes, allowed)?,
        allowed,
    };
    let hashed = HashedFiles::hash(changed, function, declaration.properties, cache, cancellation)?;
    let mut builder = DirectoryBuilder::new(function, tree, &hashed, declaration.properties, budget);
    let mut result = ActionResult::default();
    for (declared, node) in scanned {
        if cancellation.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let wrong_type = |is: &str, expected: &str| Error::InvalidOutput {
            path: declared.components.join("/"),
            reason: format!("is {is}, but the Command declares it as {expected}"),
        };
        let path = declared.path.clone();
        match node {
            ScannedNode::File(file) => {
                if declared.expected == ExpectedType::Directory {
                    return Err(wrong_type("a file", "a directory"));
                }
                let node = hashed.node(&file).clone();
                result.output_files.push(OutputFile {
                    path,
                    digest: node.digest,
                    is_executable: node.is_executable,
                    contents: vec![],
                    node_properties: node.node_properties,
                });
            }
            ScannedNode::Symlink(symlink) => {
                let leads_to_directory = match declared.expected {
                    ExpectedType::Any => None,
                    _ => merged.leads_to_directory(&declared.components, &symlink.target)?,
                };
                match (declared.expected, leads_to_directory) {
                    (ExpectedType::File, Some(true)) => {
                        return Err(wrong_type("a symlink to a directory", "a file"));
                    }
                    (ExpectedType::Directory, Some(false)) => {
                        return Err(wrong_type("a symlink to a file", "a directory"));
                    }
                    _ => {}
                }
                let symlink = OutputSymlink {
                    path,
                    node_properties: symlink.properties(declaration.properties),
                    target: symlink.target,
                };
                match declared.expected {
                    ExpectedType::Any => result.output_symlinks.push(symlink),
                    ExpectedType::File => result.output_file_symlinks.push(symlink),
                    ExpectedType::Directory => result.output_directory_symlinks.push(symlink),
                }
            }
            ScannedNode::Directory(directory) => {
                if declared.expected == ExpectedType::File {
                    return Err(wrong_type("a directory", "a file"));
                }
                let root = builder.build(&directory)?;
                let format = declaration.directory_format;
                let tree_digest = if format == OutputDirectoryFormat::DirectoryOnly {
                    None
                } else {
                    Some(builder.tree(root, &path)?)
                };
                result.output_directories.push(OutputDirectory {
                    path,
                    tree_digest: tree_digest.map(|digest| digest.to_wire()),
                    is_topologically_sorted: false,
                    root_directory_digest: (format != OutputDirectoryFormat::TreeOnly)
                        .then(|| root.to_wire()),
                });
            }
        }
    }
    check_result_size(&result)?;
    let with_directories = declaration.directory_format != OutputDirectoryFormat::TreeOnly;
    let mut blobs = builder.into_blobs(with_directories);
    blobs.extend(hashed.blobs());
    let copies = hashed.into_copies(function)?;
    Ok(Outputs {
        result,
        blobs,
        copies,
    })
}
