//! Encoding of a root file system as Directory messages.

use std::collections::HashMap;

use bitzel_proto::google::protobuf::UInt32Value;
use bitzel_proto::reapi::{FileNode, NodeProperties, NodeProperty, SymlinkNode};
use bitzel_proto::{Digest, DirectoryEncoder, validate_directory};
use bitzel_worker::node_properties::{HARDLINK_GROUP, Mtime};
use bytes::Bytes;

use super::{DirectoryEntry, Node, RootFileEntry, RootTree};
use crate::error::Error;
use crate::root_digest::ROOT_DIGEST_FUNCTION;

/// Bits of a directory's mode that are kept. A worker without privileges has to be able to use the directory.
const DIRECTORY_MODE_MASK: u32 = 0o1777;
const DIRECTORY_MODE_MINIMUM: u32 = 0o700;
/// Bits of a file's mode that are kept. A worker without privileges has to be able to read the file.
const FILE_MODE_MASK: u32 = 0o777;
const FILE_MODE_MINIMUM: u32 = 0o400;

/// Root file system as messages.
#[derive(Debug, Clone)]
pub struct EncodedRoot {
    /// Digest of the root Directory, the name of the root file system.
    pub digest: Digest,
    /// All Directory messages.
    pub directories: HashMap<Digest, Bytes>,
    /// Digests of all files.
    pub files: Vec<Digest>,
    /// Number of files, with each hardlink counted.
    pub file_count: u64,
    /// Number of directories.
    pub directory_count: u64,
    /// Number of symlinks.
    pub symlink_count: u64,
    /// Bytes of all files, with each hardlink group counted once.
    pub bytes: u64,
}

impl RootTree {
    /// Encodes the tree.
    pub fn encode(&self) -> Result<EncodedRoot, Error> {
        let mut names = HashMap::new();
        count_names(&self.root, "", &mut names);
        let mut encoder = Encoder {
            groups: names
                .into_iter()
                .filter(|(_, (count, _))| *count > 1)
                .map(|(inode, (_, first))| (inode, first))
                .collect(),
            encoded: EncodedRoot {
                digest: ROOT_DIGEST_FUNCTION.digest(&[]),
                directories: HashMap::new(),
                files: vec![],
                file_count: 0,
                directory_count: 0,
                symlink_count: 0,
                bytes: 0,
            },
        };
        encoder.encoded.digest = encoder.directory(&self.root, "")?;
        encoder.encoded.files.sort_unstable();
        encoder.encoded.files.dedup();
        Ok(encoder.encoded)
    }
}

/// Counts the names of each inode, and finds the first one in the order of the tree.
fn count_names(directory: &DirectoryEntry, path: &str, names: &mut HashMap<u64, (u64, String)>) {
    for (name, node) in &directory.entries {
        let path = join(path, name);
        match node {
            Node::Directory(child) => count_names(child, &path, names),
            Node::File(RootFileEntry {
                inode: Some(inode), ..
            }) => {
                names.entry(*inode).or_insert((0, path)).0 += 1;
            }
            _ => {}
        }
    }
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}/{name}")
    }
}

struct Encoder {
    /// First path of each hardlink group, by inode.
    groups: HashMap<u64, String>,
    encoded: EncodedRoot,
}

impl Encoder {
    fn directory(&mut self, directory: &DirectoryEntry, path: &str) -> Result<Digest, Error> {
        let mode = (directory.attributes.mode & DIRECTORY_MODE_MASK) | DIRECTORY_MODE_MINIMUM;
        let mut encoder = DirectoryEncoder::new(Some(properties(
            Some(mode),
            directory.attributes.mtime_seconds,
            None,
        )));
        for (name, node) in &directory.entries {
            let path = join(path, name);
            match node {
                Node::Directory(child) => encoder.add_directory(name.clone(), self.directory(child, &path)?),
                Node::File(file) => encoder.add_file(name.clone(), self.file(file, &path)),
                Node::Symlink {
                    target,
                    mtime_seconds,
                } => {
                    self.encoded.symlink_count += 1;
                    let node = SymlinkNode {
                        target: target.clone(),
                        node_properties: Some(properties(None, *mtime_seconds, None)),
                        ..SymlinkNode::default()
                    };
                    encoder.add_symlink(name.clone(), node);
                }
            }
        }
        let encoded = encoder.encode(ROOT_DIGEST_FUNCTION);
        validate_directory(&encoded.message).map_err(|source| Error::Directory {
            path: path.to_owned(),
            source,
        })?;
        self.encoded.directory_count += 1;
        self.encoded
            .directories
            .insert(encoded.digest, encoded.bytes.into());
        Ok(encoded.digest)
    }

    fn file(&mut self, file: &RootFileEntry, path: &str) -> FileNode {
        let mode = (file.attributes.mode & FILE_MODE_MASK) | FILE_MODE_MINIMUM;
        let group = file.inode.and_then(|inode| self.groups.get(&inode));
        self.encoded.file_count += 1;
        if group.is_none_or(|first| first == path) {
            self.encoded.bytes += file.digest.size_bytes();
        }
        self.encoded.files.push(file.digest);
        FileNode {
            digest: Some(file.digest.to_wire()),
            is_executable: mode & 0o100 != 0,
            node_properties: Some(properties(
                Some(mode),
                file.attributes.mtime_seconds,
                group.map(String::as_str),
            )),
            ..FileNode::default()
        }
    }
}

fn properties(mode: Option<u32>, seconds: i64, group: Option<&str>) -> NodeProperties {
    let property = |value: &str| NodeProperty {
        name: HARDLINK_GROUP.to_owned(),
        value: value.to_owned(),
    };
    NodeProperties {
        properties: group.map(property).into_iter().collect(),
        mtime: Some(Mtime { seconds, nanos: 0 }.to_wire()),
        unix_mode: mode.map(|value| UInt32Value { value }),
    }
}
