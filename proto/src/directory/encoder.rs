//! Canonical encoding of Directory messages.

use prost::Message;

use crate::reapi::{Directory, DirectoryNode, FileNode, NodeProperties, SymlinkNode};
use crate::{Digest, DigestFunction};

/// Encoder of one Directory message in canonical form: each list of nodes sorted by name, as the specification requires,
/// so that equal directories have equal digests.
///
/// A Merkle tree is encoded children first: the digest of a child is an entry of its parent. Nodes may be added in any
/// order. The caller adds each name once.
#[derive(Debug, Clone, Default)]
pub struct DirectoryEncoder {
    message: Directory,
}

/// A Directory message with its encoding and its digest.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedDirectory {
    /// Digest of the encoding.
    pub digest: Digest,
    /// The message.
    pub message: Directory,
    /// The encoding.
    pub bytes: Vec<u8>,
}

impl DirectoryEncoder {
    /// Creates an encoder of a directory with these node properties.
    pub fn new(node_properties: Option<NodeProperties>) -> Self {
        Self {
            message: Directory {
                node_properties,
                ..Directory::default()
            },
        }
    }

    /// Adds a file under `name`; the name in the node does not count.
    pub fn add_file(&mut self, name: String, node: FileNode) {
        self.message.files.push(FileNode { name, ..node });
    }

    /// Adds a symbolic link under `name`; the name in the node does not count.
    pub fn add_symlink(&mut self, name: String, node: SymlinkNode) {
        self.message.symlinks.push(SymlinkNode { name, ..node });
    }

    /// Adds the directory with this digest under `name`.
    pub fn add_directory(&mut self, name: String, digest: Digest) {
        let digest = Some(digest.to_wire());
        self.message.directories.push(DirectoryNode { name, digest });
    }

    /// Encodes the message.
    pub fn encode(self, function: DigestFunction) -> EncodedDirectory {
        let mut message = self.message;
        // `str` is ordered by UTF-8 bytes, as the specification requires. Sorted input costs one comparison per node.
        message.files.sort_by(|one, other| one.name.cmp(&other.name));
        message
            .directories
            .sort_by(|one, other| one.name.cmp(&other.name));
        message.symlinks.sort_by(|one, other| one.name.cmp(&other.name));
        let bytes = message.encode_to_vec();
        EncodedDirectory {
            digest: function.digest(&bytes),
            message,
            bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::google::protobuf::UInt32Value;
    use crate::validate_directory;

    const FUNCTION: DigestFunction = DigestFunction::Sha256;

    fn encoded(names: &[&str]) -> EncodedDirectory {
        let mode = Some(UInt32Value { value: 0o755 });
        let mut encoder = DirectoryEncoder::new(Some(NodeProperties {
            unix_mode: mode,
            ..NodeProperties::default()
        }));
        for name in names {
            let file = FileNode {
                digest: Some(FUNCTION.digest(name.as_bytes()).to_wire()),
                ..FileNode::default()
            };
            encoder.add_file(format!("file-{name}"), file);
            let symlink = SymlinkNode {
                target: (*name).to_owned(),
                ..SymlinkNode::default()
            };
            encoder.add_symlink(format!("link-{name}"), symlink);
            encoder.add_directory(format!("directory-{name}"), FUNCTION.digest(&[]));
        }
        encoder.encode(FUNCTION)
    }

    #[test]
    fn the_order_of_additions_does_not_change_the_digest() {
        let sorted = encoded(&["B", "a", "é"]);
        assert_eq!(encoded(&["é", "B", "a"]), sorted);
        assert_eq!(validate_directory(&sorted.message), Ok(()));
    }

    #[test]
    fn names_modes_and_digest_are_those_of_the_encoding() {
        let encoded = encoded(&["a"]);
        let decoded = Directory::decode(encoded.bytes.as_slice()).unwrap();
        assert_eq!(decoded, encoded.message);
        assert_eq!(decoded.files[0].name, "file-a");
        assert_eq!(decoded.symlinks[0].name, "link-a");
        assert_eq!(decoded.node_properties.unwrap().unix_mode.unwrap().value, 0o755);
        assert_eq!(encoded.digest, FUNCTION.digest(&encoded.bytes));
    }
}
