//! Creation of the parent directories of outputs.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use bitzel_cas::DirectoryTree;
use bitzel_proto::Digest;
use bitzel_proto::reapi::Directory;
use rustix::fs::{Mode, OFlags, open};
use tokio_util::sync::CancellationToken;

use super::merged_tree::{MergedNode, MergedTree};
use crate::bounds::{Bound, BoundReached};
use crate::error::Error;
use crate::input_root::set_attributes;
use crate::input_tree::directory_of;
use crate::relative_path::MAX_PATH_BYTES;

/// Creates the parents of outputs in an upper directory, which is empty or holds a copy of the input. The specification
/// requires them before the command starts. Directories of the input keep their mode and modification time.
///
/// Each directory is visited once. Creates at most `max_directories`; ends early with [`Error::Cancelled`].
pub fn create_output_parents(
    tree: &DirectoryTree,
    upper: &Path,
    outputs: &[Vec<String>],
    max_directories: u64,
    cancellation: &CancellationToken,
) -> Result<(), Error> {
    let mut parents = BTreeSet::new();
    for output in outputs {
        let on_disk = upper.join(output.join("/"));
        if on_disk.as_os_str().len() > MAX_PATH_BYTES {
            let start: String = output.join("/").chars().take(100).collect();
            return Err(Error::InvalidAction(format!(
                "output {start:?}... has, on the worker, a path of more than {MAX_PATH_BYTES} bytes"
            )));
        }
        if let Some((_, directories)) = output.split_last() {
            parents.insert(directories);
        }
    }
    let root = Visited {
        name: "",
        node: VisitedNode::Directory {
            input: Some(tree.root),
            is_in_upper: true,
        },
        is_changed: true,
    };
    let mut walk = ParentWalk {
        tree,
        merged: MergedTree::new(tree, upper.to_owned()),
        visited: vec![root],
        free: max_directories,
        max_directories,
    };
    // Sorted, so that paths with the same start follow each other.
    for directories in parents {
        let visited = walk.visited.iter().skip(1);
        let common = visited
            .zip(directories)
            .take_while(|(left, right)| left.name == right.as_str());
        let common = common.count();
        walk.leave(common + 1)?;
        for name in &directories[common..] {
            if cancellation.is_cancelled() {
                return Err(Error::Cancelled);
            }
            walk.enter(name)?;
        }
    }
    walk.leave(0)
}

/// Walk through the parents, down and up again.
struct ParentWalk<'walk> {
    tree: &'walk DirectoryTree,
    merged: MergedTree<'walk>,
    /// The root and the nodes on the way to the present one.
    visited: Vec<Visited<'walk>>,
    /// Number of directories that may still be created.
    free: u64,
    max_directories: u64,
}

struct Visited<'walk> {
    name: &'walk str,
    node: VisitedNode,
    /// True if it was created, or may have got a new entry: its mode and time are set at the end.
    is_changed: bool,
}

#[derive(Clone, Copy)]
enum VisitedNode {
    Directory {
        /// The directory of the input at this path.
        input: Option<Digest>,
        is_in_upper: bool,
    },
    /// A file or a symlink of the input, or what would be below it. The command may handle that.
    Obstacle,
}

impl<'walk> ParentWalk<'walk> {
    /// Goes to an entry of the present node. Creates it if it is absent, and the directories that lead to it.
    fn enter(&mut self, name: &'walk str) -> Result<(), Error> {
        let parent = self.visited.last().map(|parent| parent.node);
        self.visited.push(Visited {
            name,
            node: VisitedNode::Obstacle,
            is_changed: false,
        });
        let Some(VisitedNode::Directory { input, is_in_upper }) = parent else {
            return Ok(());
        };
        let found = match input {
            // Created here, so it is empty.
            None => None,
            Some(digest) if !is_in_upper => self.merged.input_child(digest, name)?,
            Some(_) => self
                .merged
                .upper_child(&self.path(self.visited.len()), input, name)?,
        };
        let (node, is_changed) = match found {
            None => {
                let absent = VisitedNode::Directory {
                    input: None,
                    is_in_upper: false,
                };
                (absent, false)
            }
            Some(MergedNode::InputDirectory(digest)) => {
                let unchanged = VisitedNode::Directory {
                    input: Some(digest),
                    is_in_upper: false,
                };
                (unchanged, false)
            }
            Some(MergedNode::Upper { metadata, input }) if metadata.is_dir() => {
                let copied = VisitedNode::Directory {
                    input,
                    is_in_upper: true,
                };
                // A copied directory may get a new entry.
                (copied, input.is_some())
            }
            Some(MergedNode::Upper { .. } | MergedNode::InputFile(_) | MergedNode::InputSymlink(_)) => {
                (VisitedNode::Obstacle, false)
            }
        };
        if let Some(entered) = self.visited.last_mut() {
            (entered.node, entered.is_changed) = (node, is_changed);
        }
        if matches!(
            node,
            VisitedNode::Directory {
                input: None,
                is_in_upper: false
            }
        ) {
            self.create_visited()?;
        }
        Ok(())
    }

    /// Creates the visited directories that are not in the upper directory.
    fn create_visited(&mut self) -> Result<(), Error> {
        for index in 0..self.visited.len() {
            let visited = &mut self.visited[index];
            let VisitedNode::Directory { is_in_upper, .. } = &mut visited.node else {
                continue;
            };
            if std::mem::replace(is_in_upper, true) {
                continue;
            }
            visited.is_changed = true;
            let path = self.merged.upper_path(&self.path(index + 1));
            self.free = self.free.checked_sub(1).ok_or(Error::BoundReached(BoundReached {
                bound: Bound::InputEntries,
                used: None,
                allowed: self.max_directories,
            }))?;
            DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(Error::io_at("create", &path))?;
        }
        Ok(())
    }

    /// Goes up until `length` nodes are left, and sets the attributes of those that have all their entries now.
    fn leave(&mut self, length: usize) -> Result<(), Error> {
        let empty = Directory::default();
        while self.visited.len() > length {
            let path = self.merged.upper_path(&self.path(self.visited.len()));
            let Some(left) = self.visited.pop() else {
                return Ok(());
            };
            let VisitedNode::Directory { input, .. } = left.node else {
                continue;
            };
            if !left.is_changed {
                continue;
            }
            let directory = match input {
                Some(digest) => directory_of(self.tree, digest)?,
                None => &empty,
            };
            let opened = open(
                &path,
                OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(Error::io_at("open", &path))?;
            set_attributes(&opened, directory).map_err(Error::io_at("set mode and time of", &path))?;
        }
        Ok(())
    }

    /// The path of the first `length` visited nodes, relative to the input root.
    fn path(&self, length: usize) -> String {
        let names: Vec<&str> = self.visited[1..length.max(1)]
            .iter()
            .map(|visited| visited.name)
            .collect();
        names.join("/")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use bitzel_proto::DigestFunction;

    use super::*;

    #[test]
    fn f22_a_cancellation_ends_the_creation_of_parents() {
        let (root, _) = Digest::of_message(DigestFunction::Sha256, &Directory::default());
        let directories = HashMap::from([(root, Arc::new(Directory::default()))]);
        let tree = DirectoryTree { root, directories };
        let upper = tempfile::tempdir().unwrap();
        let outputs = [["a", "b", "out"].map(str::to_owned).to_vec()];
        let cancellation = CancellationToken::new();
        cancellation.cancel();
        let error = create_output_parents(&tree, upper.path(), &outputs, 9, &cancellation).unwrap_err();
        assert!(matches!(error, Error::Cancelled), "{error}");
        assert!(!upper.path().join("a").exists());
        create_output_parents(&tree, upper.path(), &outputs, 2, &CancellationToken::new()).unwrap();
        assert!(upper.path().join("a/b").exists());
    }
}
