//! Turns what a command left into REAPI outputs.
//!
//! The overlay's upper directory holds exactly what the command changed, so an output is the known input tree merged
//! with that: what is not in the upper directory is neither read nor hashed, and a directory that is not there keeps
//! its Directory message byte for byte.
#![expect(
    deprecated,
    reason = "clients of older versions of the specification set and read these fields"
)]

use std::path::PathBuf;

use bitzel_proto::reapi::command::OutputDirectoryFormat;
use bitzel_proto::reapi::{ActionResult, OutputDirectory, OutputFile, OutputSymlink};
use bitzel_proto::{Digest, DigestFunction};
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::file_cache::{FileCache, FileKey, OutputCopy};
use bitzel_cas::{BlobSource, DirectoryTree};

mod copied_inputs;
mod declaration;
mod directory_builder;
mod merged_tree;
mod opening;
mod scan;
mod undeclared;

pub use copied_inputs::leave_changes;
pub use declaration::{Expected, OutputDeclaration, components};
use directory_builder::DirectoryBuilder;
use merged_tree::MergedTree;
pub use merged_tree::prepare_upper;
pub(crate) use opening::digest_of;
pub(crate) use scan::check_size;
use scan::{ScannedNode, Scanner};
pub use undeclared::undeclared_writes;

/// The outputs of a command.
#[derive(Debug, Default)]
pub struct Outputs {
    /// The output fields of the result; nothing else is set.
    pub result: ActionResult,
    /// What the result refers to and the input root did not have. May name a blob twice.
    pub blobs: Vec<(Digest, BlobSource)>,
    /// Copies of the changed files among them, from which those are uploaded, and what they are as inputs at the same
    /// path.
    pub copies: Vec<(FileKey, OutputCopy)>,
}

/// Collects the declared outputs from `upper`, the overlay's upper directory, on top of the input `tree`. Outputs
/// that do not exist are left out. What the `cache` may keep is copied for it. Blocks, hashes in parallel, unless
/// `cancellation` comes.
pub fn collect_outputs(
    function: DigestFunction,
    tree: &DirectoryTree,
    upper: PathBuf,
    declaration: &OutputDeclaration,
    cache: Option<&FileCache>,
    cancellation: &CancellationToken,
) -> Result<Outputs, Error> {
    let merged = MergedTree::new(tree, upper);
    let mut scanner = Scanner::new(&merged);
    let mut scanned = vec![];
    for path in &declaration.paths {
        if let Some(node) = scanner.scan(&path.components)? {
            scanned.push((path, node));
        }
    }
    let hashed = scanner.hash(function, declaration.properties, cache, cancellation)?;
    let mut builder = DirectoryBuilder::new(function, tree, &hashed, declaration.properties);
    let mut result = ActionResult::default();
    for (declared, node) in scanned {
        let wrong_type = |is: &str, expected: &str| Error::InvalidOutput {
            path: declared.components.join("/"),
            reason: format!("is {is}, but the Command declares it as {expected}"),
        };
        let path = declared.path.clone();
        match node {
            ScannedNode::File(file) => {
                if declared.expected == Expected::Directory {
                    return Err(wrong_type("a file", "a directory"));
                }
                let node = hashed.file_node(String::new(), &file);
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
                    Expected::Anything => None,
                    _ => merged.leads_to_directory(&declared.components, &symlink.target)?,
                };
                match (declared.expected, leads_to_directory) {
                    (Expected::File, Some(true)) => {
                        return Err(wrong_type("a symlink to a directory", "a file"));
                    }
                    (Expected::Directory, Some(false)) => {
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
                    Expected::Anything => result.output_symlinks.push(symlink),
                    Expected::File => result.output_file_symlinks.push(symlink),
                    Expected::Directory => result.output_directory_symlinks.push(symlink),
                }
            }
            ScannedNode::Directory(directory) => {
                if declared.expected == Expected::File {
                    return Err(wrong_type("a directory", "a file"));
                }
                let root = builder.build(&directory)?;
                let format = declaration.directory_format;
                let tree_digest = if format == OutputDirectoryFormat::DirectoryOnly {
                    None
                } else {
                    Some(builder.tree(root)?)
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
