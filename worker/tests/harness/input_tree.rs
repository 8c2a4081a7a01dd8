//! Input trees in short notation.

use std::collections::BTreeMap;

use bitzel_proto::google::protobuf::{Timestamp, UInt32Value};
use bitzel_proto::reapi::NodeProperties;

/// Modification time of the inputs that have one.
const MTIME: i64 = 1_500_000_000;

/// A node of an input tree.
#[derive(Debug, Clone)]
pub enum Node {
    File(Vec<u8>, Option<NodeProperties>),
    Executable(Vec<u8>),
    Symlink(String),
    Directory(BTreeMap<String, Self>, Option<NodeProperties>),
}

/// Properties with a mode and a modification time.
fn properties(mode: u32, seconds: i64) -> NodeProperties {
    NodeProperties {
        properties: vec![],
        mtime: Some(Timestamp { seconds, nanos: 123 }),
        unix_mode: Some(UInt32Value { value: mode }),
    }
}

impl Node {
    /// The same tree without properties: all nodes have default modes and times.
    pub fn without_properties(&self) -> Self {
        match self {
            Self::File(content, _) => Self::File(content.clone(), None),
            Self::Directory(entries, _) => {
                let entries = entries
                    .iter()
                    .map(|(name, node)| (name.clone(), node.without_properties()));
                Self::Directory(entries.collect(), None)
            }
            other => other.clone(),
        }
    }

    /// A small tree in two variants: one that a worker copies, and one with properties, for which it mounts an overlay.
    pub fn copied_and_overlaid(&self) -> [Self; 2] {
        let Self::Directory(entries, _) = self else {
            panic!("a tree starts with a directory");
        };
        let below = Self::Directory(entries.clone(), Some(properties(0o755, MTIME)));
        [self.without_properties(), below]
    }
}

/// A writable file with a modification time.
pub fn file(content: impl AsRef<[u8]>) -> Node {
    Node::File(content.as_ref().to_vec(), Some(properties(0o644, MTIME)))
}

/// A file without properties, as most clients send it.
pub fn plain_file(content: impl AsRef<[u8]>) -> Node {
    Node::File(content.as_ref().to_vec(), None)
}

pub fn symlink(target: &str) -> Node {
    Node::Symlink(target.into())
}

pub fn directory<const N: usize>(entries: [(&str, Node); N]) -> Node {
    Node::Directory(
        entries
            .into_iter()
            .map(|(name, node)| (name.to_owned(), node))
            .collect(),
        None,
    )
}
