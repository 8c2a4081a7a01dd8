//! Result of a finished task.

use std::collections::BTreeMap;

use bitzel_proto::reapi::{
    ActionResult, FileNode, NodeProperties, OutputDirectory, OutputFile, OutputSymlink, SymlinkNode,
};
use bitzel_proto::task::{OutputRoot, PrivateTree, TaskRecord};
use bitzel_proto::{Digest, InvalidDigest, google};
use prost::Message;

use super::tree::{DIGEST_FUNCTION, Node};

/// Directory of a task's logs, relative to /work.
pub const LOG_PATH: &str = "bitzel/log";

const RECORD_TYPE_URL: &str = "type.googleapis.com/bitzel.task.v1.TaskRecord";

/// Error of a result that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MalformedResult {
    /// The digest of an output is malformed.
    #[error("output {path}: {source}")]
    Digest {
        /// The output.
        path: String,
        /// The defect.
        source: InvalidDigest,
    },
    /// The result was not recorded by bitzel.
    #[error("the result has no task record")]
    NoRecord,
}

/// Result of a finished task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskResult {
    /// Hash by which dependents know the task.
    pub unihash: String,
    /// Outputs by path relative to /work: directories by their root, files and symbolic links.
    pub outputs: BTreeMap<String, Node>,
    /// The recipe's private trees before the task ran, by path. A tree that is not listed is empty.
    pub before: BTreeMap<String, Digest>,
    /// Wall time of the execution.
    pub milliseconds: u64,
    /// True if it was restored from a shared state archive. Its private trees hold nothing of the tasks before it.
    pub restored: bool,
}

impl TaskResult {
    /// Reads a recorded result.
    pub fn from_action_result(recorded: &ActionResult) -> Result<Self, MalformedResult> {
        let record = task_record(recorded).ok_or(MalformedResult::NoRecord)?;
        let mut before = BTreeMap::new();
        for tree in record.before {
            let digest =
                Digest::from_parts(DIGEST_FUNCTION, &tree.hash, tree.size_bytes).map_err(|source| {
                    MalformedResult::Digest {
                        path: tree.path.clone(),
                        source,
                    }
                })?;
            before.insert(tree.path, digest);
        }
        Ok(Self {
            unihash: record.unihash,
            outputs: outputs(recorded)?,
            before,
            milliseconds: record.execution_milliseconds,
            restored: record.restored,
        })
    }

    /// Creates the result to record: that of the execution, with bitzel's task record in it.
    pub fn to_action_result(&self, executed: &ActionResult) -> ActionResult {
        let before = self.before.iter().map(|(path, digest)| {
            let digest = digest.to_wire();
            PrivateTree {
                path: path.clone(),
                hash: digest.hash,
                size_bytes: digest.size_bytes,
            }
        });
        let output_roots = self.outputs.iter().filter_map(|(path, node)| match node {
            Node::Stored(digest) => {
                let digest = digest.to_wire();
                Some(OutputRoot {
                    path: path.clone(),
                    hash: digest.hash,
                    size_bytes: digest.size_bytes,
                })
            }
            _ => None,
        });
        let record = TaskRecord {
            unihash: self.unihash.clone(),
            before: before.collect(),
            execution_milliseconds: self.milliseconds,
            restored: self.restored,
            output_roots: output_roots.collect(),
        };
        let mut recorded = executed.clone();
        let metadata = recorded.execution_metadata.get_or_insert_default();
        metadata
            .auxiliary_metadata
            .retain(|any| any.type_url != RECORD_TYPE_URL);
        metadata.auxiliary_metadata.push(google::protobuf::Any {
            type_url: RECORD_TYPE_URL.to_owned(),
            value: record.encode_to_vec(),
        });
        recorded
    }

    /// Creates a result that [`Self::from_action_result`] reads, with the outputs and nothing else of the execution.
    pub fn to_outputs(&self) -> ActionResult {
        let mut result = ActionResult::default();
        for (path, node) in &self.outputs {
            match node {
                Node::Stored(digest) => result.output_directories.push(OutputDirectory {
                    path: path.clone(),
                    root_directory_digest: Some(digest.to_wire()),
                    ..OutputDirectory::default()
                }),
                Node::File(file) => result.output_files.push(OutputFile {
                    path: path.clone(),
                    digest: file.digest.clone(),
                    is_executable: file.is_executable,
                    node_properties: file.node_properties.clone(),
                    ..OutputFile::default()
                }),
                Node::Symlink(symlink) => result.output_symlinks.push(OutputSymlink {
                    path: path.clone(),
                    target: symlink.target.clone(),
                    node_properties: symlink.node_properties.clone(),
                }),
                // Only trees that are being merged have open directories.
                Node::Open(_) => {}
            }
        }
        self.to_action_result(&result)
    }

    /// Root of the output directory at `path`, if there is one.
    pub fn directory(&self, path: &str) -> Option<Digest> {
        match self.outputs.get(path) {
            Some(Node::Stored(digest)) => Some(*digest),
            _ => None,
        }
    }
}

/// bitzel's record in a result, if there is a whole one.
fn task_record(recorded: &ActionResult) -> Option<TaskRecord> {
    let metadata = recorded.execution_metadata.as_ref()?;
    let mut all = metadata.auxiliary_metadata.iter();
    let any = all.find(|any| any.type_url == RECORD_TYPE_URL)?;
    let record = TaskRecord::decode(any.value.as_slice()).ok()?;
    (!record.unihash.is_empty()).then_some(record)
}

/// Puts the roots of output directories into a recorded result again, where the server has dropped them: it may know an
/// older version of the Remote Execution API, whose results name directories by their Tree alone.
pub(crate) fn restore_output_roots(recorded: &mut ActionResult) {
    let lost = |directory: &OutputDirectory| directory.root_directory_digest.is_none();
    if !recorded.output_directories.iter().any(lost) {
        return;
    }
    let Some(record) = task_record(recorded) else {
        return;
    };
    let lost = recorded
        .output_directories
        .iter_mut()
        .filter(|directory| lost(directory));
    for directory in lost {
        let root = record
            .output_roots
            .iter()
            .find(|root| root.path == directory.path);
        directory.root_directory_digest = root.map(|root| bitzel_proto::reapi::Digest {
            hash: root.hash.clone(),
            size_bytes: root.size_bytes,
        });
    }
}

/// Outputs of an execution, by path.
pub fn outputs(result: &ActionResult) -> Result<BTreeMap<String, Node>, MalformedResult> {
    let mut outputs = BTreeMap::new();
    for directory in &result.output_directories {
        let digest = Digest::from_wire_field(DIGEST_FUNCTION, directory.root_directory_digest.as_ref())
            .map_err(|source| MalformedResult::Digest {
                path: directory.path.clone(),
                source,
            })?;
        outputs.insert(directory.path.clone(), Node::Stored(digest));
    }
    for file in &result.output_files {
        Digest::from_wire_field(DIGEST_FUNCTION, file.digest.as_ref()).map_err(|source| {
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

/// Node properties without the time, which differs between equal runs.
pub(super) fn properties_without_time(properties: Option<&NodeProperties>) -> Option<NodeProperties> {
    properties.map(|properties| NodeProperties {
        mtime: None,
        ..properties.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_alone_are_read_as_the_same_result() {
        let digest = DIGEST_FUNCTION.digest(b"content");
        let file = FileNode {
            digest: Some(digest.to_wire()),
            is_executable: true,
            ..FileNode::default()
        };
        let symlink = SymlinkNode {
            target: "file".to_owned(),
            ..SymlinkNode::default()
        };
        let outputs = [
            ("directory", Node::Stored(digest)),
            ("file", Node::File(file)),
            ("link", Node::Symlink(symlink)),
        ];
        let result = TaskResult {
            unihash: "hash".to_owned(),
            outputs: outputs.map(|(path, node)| (path.to_owned(), node)).into(),
            before: BTreeMap::from([("work".to_owned(), digest)]),
            milliseconds: 7,
            restored: false,
        };
        assert_eq!(
            TaskResult::from_action_result(&result.to_outputs()).unwrap(),
            result
        );
    }

    #[test]
    fn roots_that_a_server_has_dropped_are_read_from_the_record() {
        let digest = DIGEST_FUNCTION.digest(b"a directory");
        let result = TaskResult {
            unihash: "hash".to_owned(),
            outputs: BTreeMap::from([("directory".to_owned(), Node::Stored(digest))]),
            before: BTreeMap::new(),
            milliseconds: 7,
            restored: false,
        };
        let mut recorded = result.to_outputs();
        recorded.output_directories[0].root_directory_digest = None;
        assert!(TaskResult::from_action_result(&recorded).is_err());
        restore_output_roots(&mut recorded);
        assert_eq!(TaskResult::from_action_result(&recorded).unwrap(), result);
    }
}
