//! What the command of a portable Action left.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use bitzel_launcher::portable::{MAX_UNDECLARED_PATHS, OutputNode, PortableRequest, Time, content_path};

use super::staging::{Snapshot, join, stamp};
use crate::failure::{Failure, InStep as _};

const COLLECT: &str = "collect the outputs";
const BUFFER_BYTES: usize = 1 << 16;

/// Changes of a command.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) outputs: Vec<(String, OutputNode)>,
    pub(super) undeclared: Vec<String>,
    pub(super) undeclared_count: u64,
}

/// Describes the outputs, finds writes outside of them, and moves the contents of changed output files to `destination`.
/// `source` is the input tree, which the command did not see.
pub(super) fn collect(
    request: &PortableRequest,
    tree: &Path,
    source: &Path,
    before: &Snapshot,
    destination: &Path,
) -> Result<Changes, Failure> {
    let mut collector = Collector {
        tree,
        before,
        destination,
        outputs: vec![],
        contents: HashMap::new(),
    };
    let declared: HashSet<&str> = request.outputs.iter().map(String::as_str).collect();
    // First, since outputs are moved away.
    let mut writes = UndeclaredWrites {
        tree,
        source,
        before,
        declared: &declared,
        seen: HashSet::new(),
        first: BTreeSet::new(),
        count: 0,
    };
    writes
        .find("")
        .in_step("look for writes outside of the outputs")?;
    writes.find_deleted();
    for output in &request.outputs {
        collector.output(output)?;
    }
    Ok(Changes {
        outputs: collector.outputs,
        undeclared: writes.first.into_iter().collect(),
        undeclared_count: writes.count,
    })
}

struct Collector<'tree> {
    tree: &'tree Path,
    before: &'tree Snapshot,
    destination: &'tree Path,
    outputs: Vec<(String, OutputNode)>,
    /// Kept contents by inode, with the mode that the file had: it has several names, or is in several outputs.
    contents: HashMap<u64, (u64, u32)>,
}

impl Collector<'_> {
    /// Adds an output if it exists. A path through a symlink has no node.
    fn output(&mut self, path: &str) -> Result<(), Failure> {
        let mut reached = String::new();
        for name in path.split('/') {
            if !reached.is_empty() && !is_directory(&self.tree.join(&reached)) {
                return Ok(());
            }
            reached = join(&reached, name);
        }
        match fs::symlink_metadata(self.tree.join(path)) {
            Ok(metadata) => self.node(path.to_owned(), &metadata).map(drop),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).in_step(COLLECT),
        }
    }

    /// Adds a node with everything below it, and returns true if all of it is as in the input.
    fn node(&mut self, path: String, metadata: &fs::Metadata) -> Result<bool, Failure> {
        let own = self.before.get(&path) == Some(&stamp(metadata));
        let place = self.outputs.len();
        self.outputs.push((path, OutputNode::Unchanged));
        let path = self.outputs[place].0.clone();
        if !metadata.is_dir() {
            if !own {
                self.outputs[place].1 = self.changed(&path, metadata)?;
            }
            return Ok(own);
        }
        let mut unchanged = own;
        let directory = self.tree.join(&path);
        let mode = metadata.mode() & 0o7777;
        if mode & 0o700 != 0o700 {
            // The command may have taken away the permission to list it.
            set_mode(&directory, 0o700).in_step(COLLECT)?;
        }
        for entry in fs::read_dir(&directory).in_step(COLLECT)? {
            let entry = entry.in_step(COLLECT)?;
            let name = entry.file_name().into_string().map_err(|name| {
                let path = join(&path, &name.to_string_lossy());
                Failure::new(COLLECT, format!("{path} has a name that is not UTF-8"))
            })?;
            let metadata = entry.metadata().in_step(COLLECT)?;
            unchanged &= self.node(join(&path, &name), &metadata)?;
        }
        if mode & 0o700 != 0o700 {
            set_mode(&directory, mode).in_step(COLLECT)?;
        }
        if unchanged {
            self.outputs.truncate(place + 1);
        } else {
            let mtime = mtime(metadata);
            self.outputs[place].1 = OutputNode::Directory { mode, mtime };
        }
        Ok(unchanged)
    }

    fn changed(&mut self, path: &str, metadata: &fs::Metadata) -> Result<OutputNode, Failure> {
        let on_disk = self.tree.join(path);
        if metadata.is_symlink() {
            let target = fs::read_link(&on_disk).in_step(COLLECT)?;
            let target = target.into_os_string().into_string().map_err(|target| {
                let target = target.to_string_lossy();
                Failure::new(
                    COLLECT,
                    format!("{path} is a symlink whose target {target} is not UTF-8"),
                )
            })?;
            return Ok(OutputNode::Symlink {
                target,
                mtime: mtime(metadata),
            });
        }
        if !metadata.is_file() {
            return Err(Failure::new(
                COLLECT,
                format!("{path} is neither a file nor a directory nor a symlink"),
            ));
        }
        let (content, mode) = match self.contents.get(&metadata.ino()) {
            Some(known) => *known,
            None => {
                let kept = (self.contents.len() as u64, metadata.mode() & 0o7777);
                self.contents.insert(metadata.ino(), kept);
                let to = self.destination.join(content_path(kept.0));
                keep_content(&on_disk, &to).in_step(format_args!("keep the content of {path}"))?;
                kept
            }
        };
        Ok(OutputNode::File {
            content,
            mode,
            mtime: mtime(metadata),
        })
    }
}

/// Gives the engine the content of a file, readable for it.
fn keep_content(from: &Path, to: &Path) -> io::Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    set_mode(from, 0o644)?;
    // By a link, so that the other outputs that contain this file find it.
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop))
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn mtime(metadata: &fs::Metadata) -> Time {
    (
        metadata.mtime(),
        u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    )
}

fn is_directory(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// Search for writes outside of the outputs. Directories themselves do not count, as on workers of bitzel.
struct UndeclaredWrites<'tree> {
    tree: &'tree Path,
    source: &'tree Path,
    before: &'tree Snapshot,
    declared: &'tree HashSet<&'tree str>,
    seen: HashSet<String>,
    first: BTreeSet<String>,
    count: u64,
}

impl UndeclaredWrites<'_> {
    fn find(&mut self, path: &str) -> io::Result<()> {
        for entry in fs::read_dir(self.tree.join(path))? {
            let entry = entry?;
            let child = join(path, &entry.file_name().to_string_lossy());
            if self.declared.contains(child.as_str()) {
                continue;
            }
            let metadata = entry.metadata()?;
            if metadata.is_dir() {
                self.find(&child)?;
                continue;
            }
            let (old, new) = (self.before.get(&child), stamp(&metadata));
            let is_unchanged = old.is_some_and(|old| {
                *old == new || (old.mode == new.mode && self.equals_input(&child, &metadata).unwrap_or(false))
            });
            if !is_unchanged {
                self.add(child.clone());
            }
            self.seen.insert(child);
        }
        Ok(())
    }

    /// True if a node has the content of the input: a hardlink to a file changes the time of its inode, and the sysroot
    /// of a recipe consists of hardlinks.
    fn equals_input(&self, path: &str, metadata: &fs::Metadata) -> io::Result<bool> {
        let source = self.source.join(path);
        let Ok(input) = fs::symlink_metadata(&source) else {
            return Ok(false);
        };
        if metadata.is_symlink() {
            return Ok(input.is_symlink() && fs::read_link(self.tree.join(path))? == fs::read_link(source)?);
        }
        Ok(metadata.is_file()
            && input.is_file()
            && input.len() == metadata.len()
            && are_equal(File::open(self.tree.join(path))?, File::open(source)?)?)
    }

    fn find_deleted(&mut self) {
        let (before, declared) = (self.before, self.declared);
        for path in before.keys() {
            let is_declared = path
                .match_indices('/')
                .map(|(end, _)| &path[..end])
                .chain([path.as_str()])
                .any(|prefix| declared.contains(prefix));
            if is_declared || self.seen.contains(path) || is_directory(&self.source.join(path)) {
                continue;
            }
            self.add(path.clone());
        }
    }

    fn add(&mut self, path: String) {
        self.count += 1;
        self.first.insert(path);
        if self.first.len() > MAX_UNDECLARED_PATHS {
            self.first.pop_last();
        }
    }
}

fn are_equal(mut one: File, mut other: File) -> io::Result<bool> {
    let (mut left, mut right) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        match other.read_exact(&mut right[..read]) {
            Ok(()) if left[..read] == right[..read] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}
