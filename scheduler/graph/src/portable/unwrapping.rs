//! Outputs of a portable Action as the result that a worker of bitzel would have left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bitzel_cas::DirectoryTree;
use bitzel_cas::directory_tree::MAX_DEPTH;
use bitzel_launcher::portable::{OutputNode, PortableOutcome, Time, content_path};
use bitzel_proto::google::protobuf::{Timestamp, UInt32Value};
use bitzel_proto::reapi::{
    ActionResult, Command, Directory, FileNode, NodeProperties, NodeProperty, OutputDirectory, OutputFile,
    OutputSymlink, SymlinkNode, Tree,
};
use bitzel_proto::{Digest, DirectoryEncoder, validate_directory};
use bytes::Bytes;

use super::engine_outputs::EngineOutputs;
use super::wrapping::HARDLINK_GROUP;
use crate::plan::signature::blob;
use crate::plan::tree::{self, DIGEST_FUNCTION, Node, TreeError};

/// Error of an outcome that describes no outputs.
#[derive(Debug, thiserror::Error)]
pub(super) enum InvalidOutcome {
    /// A node is in no directory of the outcome.
    #[error("the outcome of the launcher has {0:?} in no directory")]
    Stray(String),
    /// A content is missing among the outputs on the engine.
    #[error("the outputs on the engine lack the content of {0:?}")]
    NoContent(String),
    /// A node that is said to be unchanged is not in the input.
    #[error("the outcome of the launcher has {0:?} as unchanged, but the input root does not have it")]
    NotInInput(String),
    /// A Directory that the outcome describes is invalid.
    #[error("the outcome of the launcher describes an invalid directory at {0:?}")]
    InvalidDirectory(String),
    /// The input root cannot be read.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// A result in which only the output fields are set, and the blobs that it adds.
#[derive(Debug, Default)]
pub(super) struct UnwrappedOutputs {
    pub(super) result: ActionResult,
    pub(super) blobs: HashMap<Digest, Bytes>,
}

/// The message about writes outside of the outputs, as of a worker of bitzel.
pub(super) fn describe_undeclared(outcome: &PortableOutcome) -> String {
    let listed = outcome.undeclared.join(", ");
    let more = outcome
        .undeclared_count
        .saturating_sub(outcome.undeclared.len() as u64);
    let more = match more {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("the command wrote outside its declared outputs: {listed}{more}")
}

/// Builds the Directories of the outputs.
pub(super) fn unwrap_outputs(
    outcome: &PortableOutcome,
    engine: &EngineOutputs,
    command: &Command,
    input: &DirectoryTree,
) -> Result<UnwrappedOutputs, InvalidOutcome> {
    let has = |name: &str| command.output_node_properties.iter().any(|known| known == name);
    let mut unwrapping = Unwrapping {
        engine,
        input,
        mtime: has("mtime"),
        unix_mode: has("unix_mode"),
        groups: hardlink_groups(outcome),
        new: HashMap::new(),
        trees: HashMap::new(),
    };
    let mut result = ActionResult::default();
    let mut nodes = outcome.outputs.as_slice();
    while let Some((path, _)) = nodes.first() {
        let path = path.clone();
        match unwrapping.node(&mut nodes)? {
            Node::Stored(root) => result.output_directories.push(OutputDirectory {
                tree_digest: Some(unwrapping.tree(root, &path)?.to_wire()),
                root_directory_digest: Some(root.to_wire()),
                path,
                ..OutputDirectory::default()
            }),
            Node::File(file) => result.output_files.push(OutputFile {
                path,
                digest: file.digest,
                is_executable: file.is_executable,
                node_properties: file.node_properties,
                ..OutputFile::default()
            }),
            Node::Symlink(symlink) => result.output_symlinks.push(OutputSymlink {
                path,
                target: symlink.target,
                node_properties: symlink.node_properties,
            }),
            Node::Open(_) => return Err(InvalidOutcome::Stray(path)),
        }
    }
    let directories = unwrapping.new.into_iter();
    let directories = directories.map(|(digest, (_, bytes))| (digest, bytes));
    Ok(UnwrappedOutputs {
        result,
        blobs: directories.chain(unwrapping.trees.into_values()).collect(),
    })
}

struct Unwrapping<'outcome> {
    engine: &'outcome EngineOutputs,
    input: &'outcome DirectoryTree,
    mtime: bool,
    unix_mode: bool,
    /// Hardlink groups by content.
    groups: BTreeMap<u64, &'outcome str>,
    /// Directories that the input does not have.
    new: HashMap<Digest, (Arc<Directory>, Bytes)>,
    /// Trees by the digest of their root.
    trees: HashMap<Digest, (Digest, Bytes)>,
}

impl<'outcome> Unwrapping<'outcome> {
    /// Takes the first node with everything below it.
    fn node(&mut self, nodes: &mut &'outcome [(String, OutputNode)]) -> Result<Node, InvalidOutcome> {
        let Some(((path, node), rest)) = nodes.split_first() else {
            return Err(InvalidOutcome::Stray(String::new()));
        };
        *nodes = rest;
        if path.split('/').count() > MAX_DEPTH {
            return Err(InvalidOutcome::InvalidDirectory(path.clone()));
        }
        match node {
            OutputNode::Unchanged => {
                let input = tree::Tree::stored(&self.input.directories, self.input.root).get(path)?;
                input.ok_or_else(|| InvalidOutcome::NotInInput(path.clone()))
            }
            OutputNode::File { content, mode, mtime } => {
                let digest = self
                    .engine
                    .file(&content_path(*content))
                    .ok_or_else(|| InvalidOutcome::NoContent(path.clone()))?;
                let group = self.groups.get(content).copied();
                Ok(Node::File(FileNode {
                    name: String::new(),
                    digest: Some(digest.to_wire()),
                    is_executable: mode & 0o100 != 0,
                    node_properties: self.properties(Some(*mode), *mtime, group),
                }))
            }
            OutputNode::Symlink { target, mtime } => Ok(Node::Symlink(SymlinkNode {
                name: String::new(),
                target: target.clone(),
                node_properties: self.properties(None, *mtime, None),
            })),
            OutputNode::Directory { mode, mtime } => {
                let mut encoder = DirectoryEncoder::new(self.properties(Some(*mode), *mtime, None));
                while let Some((child, _)) = nodes.first()
                    && let Some(name) = child
                        .strip_prefix(path.as_str())
                        .and_then(|below| below.strip_prefix('/'))
                {
                    if name.contains('/') {
                        return Err(InvalidOutcome::Stray(child.clone()));
                    }
                    let name = name.to_owned();
                    match self.node(nodes)? {
                        Node::File(file) => encoder.add_file(name, file),
                        Node::Symlink(symlink) => encoder.add_symlink(name, symlink),
                        Node::Stored(digest) => encoder.add_directory(name, digest),
                        Node::Open(_) => return Err(InvalidOutcome::Stray(name)),
                    }
                }
                let encoded = encoder.encode(DIGEST_FUNCTION);
                validate_directory(&encoded.message)
                    .map_err(|_| InvalidOutcome::InvalidDirectory(path.clone()))?;
                let directory = (Arc::new(encoded.message), encoded.bytes.into());
                self.new.insert(encoded.digest, directory);
                Ok(Node::Stored(encoded.digest))
            }
        }
    }

    fn properties(&self, mode: Option<u32>, mtime: Time, group: Option<&str>) -> Option<NodeProperties> {
        let mode = mode.filter(|_| self.unix_mode);
        let group = group.filter(|_| self.mtime);
        if !self.mtime && mode.is_none() && group.is_none() {
            return None;
        }
        let group = group.map(|group| NodeProperty {
            name: HARDLINK_GROUP.to_owned(),
            value: group.to_owned(),
        });
        Some(NodeProperties {
            properties: group.into_iter().collect(),
            mtime: self.mtime.then(|| Timestamp {
                seconds: mtime.0,
                nanos: i32::try_from(mtime.1).unwrap_or(0),
            }),
            unix_mode: mode.map(|mode| UInt32Value { value: mode & 0o7777 }),
        })
    }

    /// The Tree of a directory: caches that check results read it.
    fn tree(&mut self, root: Digest, path: &str) -> Result<Digest, InvalidOutcome> {
        if let Some((digest, _)) = self.trees.get(&root) {
            return Ok(*digest);
        }
        let find = |digest: &Digest| {
            let new = self.new.get(digest).map(|(directory, _)| directory);
            let known = new.or_else(|| self.input.directories.get(digest));
            known.ok_or_else(|| InvalidOutcome::NotInInput(path.to_owned()))
        };
        let mut tree = Tree {
            root: Some((**find(&root)?).clone()),
            children: vec![],
        };
        let (mut seen, mut pending) = (HashSet::new(), vec![root]);
        while let Some(parent) = pending.pop() {
            for node in &find(&parent)?.directories {
                let child = Digest::from_wire_field(DIGEST_FUNCTION, node.digest.as_ref())
                    .map_err(|_| InvalidOutcome::InvalidDirectory(path.to_owned()))?;
                if seen.insert(child) {
                    tree.children.push((**find(&child)?).clone());
                    pending.push(child);
                }
            }
        }
        let encoded = blob(&tree);
        let digest = encoded.0;
        self.trees.insert(root, encoded);
        Ok(digest)
    }
}

/// Contents with several names, with the first of these, as workers of bitzel name the group.
fn hardlink_groups(outcome: &PortableOutcome) -> BTreeMap<u64, &str> {
    let mut names: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
    for (path, node) in &outcome.outputs {
        if let OutputNode::File { content, .. } = node {
            names.entry(*content).or_default().push(path);
        }
    }
    names
        .into_iter()
        .filter_map(|(content, mut paths)| {
            paths.sort_unstable();
            paths.dedup();
            (paths.len() > 1).then(|| (content, paths[0]))
        })
        .collect()
}
