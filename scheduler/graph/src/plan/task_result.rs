//! What a finished task left, as planning uses it.

use std::collections::BTreeMap;

use bitzel_proto::reapi::{ActionResult, FileNode, NodeProperties, SymlinkNode};
use bitzel_proto::task::{PrivateTree, TaskRecord};
use bitzel_proto::{Digest, InvalidDigest, google};
use prost::Message;

use super::tree::{FUNCTION, Node};

/// Where a task's logs are collected, relative to /work.
pub const LOG_PATH: &str = "bitzel/log";

const RECORD_TYPE_URL: &str = "type.googleapis.com/bitzel.task.v1.TaskRecord";

/// A result that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedResult {
    /// An output's digest is none.
    #[error("output {path}: {source}")]
    Digest {
        /// The output.
        path: String,
        /// What is wrong with it.
        source: InvalidDigest,
    },
    /// The cache entry was not written by bitzel, or by one that has been cut short.
    #[error("the entry has no task record")]
    NoRecord,
}

/// What a finished task left.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// The hash under which dependents see the task.
    pub unihash: String,
    /// Outputs by path relative to /work: directories by their root, files and symbolic links.
    pub outputs: BTreeMap<String, Node>,
    /// The recipe's private trees before the task ran, by path. Absent is empty.
    pub before: BTreeMap<String, Digest>,
    /// Wall time of the execution.
    pub milliseconds: u64,
}

impl TaskResult {
    /// Reads a cache entry.
    pub fn of_entry(entry: &ActionResult) -> Result<Self, MalformedResult> {
        let metadata = entry.execution_metadata.as_ref();
        let record = metadata
            .and_then(|metadata| {
                metadata
                    .auxiliary_metadata
                    .iter()
                    .find(|any| any.type_url == RECORD_TYPE_URL)
            })
            .and_then(|any| TaskRecord::decode(any.value.as_slice()).ok())
            .filter(|record| !record.unihash.is_empty())
            .ok_or(MalformedResult::NoRecord)?;
        let mut before = BTreeMap::new();
        for tree in record.before {
            let digest = Digest::from_parts(FUNCTION, &tree.hash, tree.size_bytes).map_err(|source| {
                MalformedResult::Digest {
                    path: tree.path.clone(),
                    source,
                }
            })?;
            before.insert(tree.path, digest);
        }
        Ok(Self {
            unihash: record.unihash,
            outputs: outputs(entry)?,
            before,
            milliseconds: record.execution_milliseconds,
        })
    }

    /// The cache entry: the execution's own result with the record that bitzel needs.
    pub fn to_entry(&self, executed: &ActionResult) -> ActionResult {
        let before = self.before.iter().map(|(path, digest)| {
            let digest = digest.to_wire();
            PrivateTree {
                path: path.clone(),
                hash: digest.hash,
                size_bytes: digest.size_bytes,
            }
        });
        let record = TaskRecord {
            unihash: self.unihash.clone(),
            before: before.collect(),
            execution_milliseconds: self.milliseconds,
        };
        let mut entry = executed.clone();
        let metadata = entry.execution_metadata.get_or_insert_default();
        metadata
            .auxiliary_metadata
            .retain(|any| any.type_url != RECORD_TYPE_URL);
        metadata.auxiliary_metadata.push(google::protobuf::Any {
            type_url: RECORD_TYPE_URL.to_owned(),
            value: record.encode_to_vec(),
        });
        entry
    }

    /// The root of the output directory at `path`, if there is one.
    pub fn directory(&self, path: &str) -> Option<Digest> {
        match self.outputs.get(path) {
            Some(Node::Stored(digest)) => Some(*digest),
            _ => None,
        }
    }
}

/// The outputs of an execution, by path.
pub fn outputs(result: &ActionResult) -> Result<BTreeMap<String, Node>, MalformedResult> {
    let mut outputs = BTreeMap::new();
    for directory in &result.output_directories {
        let digest = Digest::from_wire_field(FUNCTION, directory.root_directory_digest.as_ref()).map_err(
            |source| MalformedResult::Digest {
                path: directory.path.clone(),
                source,
            },
        )?;
        outputs.insert(directory.path.clone(), Node::Stored(digest));
    }
    for file in &result.output_files {
        Digest::from_wire_field(FUNCTION, file.digest.as_ref()).map_err(|source| {
            MalformedResult::Digest {
                path: file.path.clone(),
                source,
            }
        })?;
        let node = FileNode {
            name: String::new(),
            digest: file.digest.clone(),
            is_executable: file.is_executable,
            node_properties: file.node_properties.clone(),
        };
        outputs.insert(file.path.clone(), Node::File(node));
    }
    for symlink in &result.output_symlinks {
        let node = SymlinkNode {
            name: String::new(),
            target: symlink.target.clone(),
            node_properties: symlink.node_properties.clone(),
        };
        outputs.insert(symlink.path.clone(), Node::Symlink(node));
    }
    Ok(outputs)
}

/// Properties without the time, which differs between equal runs.
pub(super) fn without_time(properties: Option<&NodeProperties>) -> Option<NodeProperties> {
    properties.map(|properties| NodeProperties {
        mtime: None,
        ..properties.clone()
    })
}
