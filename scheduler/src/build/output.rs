//! Placing results where people want them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, FileTimes, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bitzel_cas::{BlobRange, BlobStore, DirectoryCache, fetch_directory_tree};
use bitzel_proto::Digest;
use bitzel_proto::reapi::{FileNode, NodeProperties, SymlinkNode};
use futures::{StreamExt, TryStreamExt};

use super::error::BuildError;
use crate::plan::closure::TaskIndex;
use crate::plan::private_tree::work_trees;
use crate::plan::task_result::TaskResult;
use crate::plan::tree::{FUNCTION, Node};

/// Names the files of an output that are one inode, see the worker's node properties.
const HARDLINK_GROUP: &str = "hardlink-group";
/// Downloads under way at the same time.
const CONCURRENCY: usize = 16;
/// Memory for decoded Directories while one stored tree is read, in bytes.
const DIRECTORY_CACHE: u64 = 32 << 20;

/// A file to be written.
struct FileToPlace {
    path: PathBuf,
    node: FileNode,
}

/// Places the results of the graph's targets below `destination`: what they published; for a task that publishes
/// nothing, its work tree. What lies in the deploy directory keeps its path from there, everything else its path from
/// the temporary directory. Each multiconfig has a directory of its own for its results.
pub async fn place_outputs(
    index: &TaskIndex,
    results: &BTreeMap<u32, Arc<TaskResult>>,
    store: &dyn BlobStore,
    destination: &Path,
) -> Result<u64, BuildError> {
    let settings = index.graph().settings.clone().unwrap_or_default();
    let mut files = Vec::new();
    fs::create_dir_all(destination).map_err(BuildError::io(destination))?;
    for task in result_tasks(index) {
        let Some(result) = results.get(&task) else {
            continue;
        };
        let published = &index.task(task).published_paths;
        let paths: Vec<&str> = if published.is_empty() {
            work_trees(index.recipe(task)).collect()
        } else {
            published.iter().map(String::as_str).collect()
        };
        for path in paths {
            let Some(node) = result.outputs.get(path) else {
                continue;
            };
            let multiconfig = &index.recipe(task).multiconfig;
            let own = settings
                .directories
                .iter()
                .find(|own| own.multiconfig == *multiconfig);
            let below = own
                .into_iter()
                .flat_map(|own| [&own.deploy, &own.temporary])
                .find_map(|prefix| strip(path, prefix))
                .unwrap_or(path);
            let destination = destination.join(multiconfig);
            fs::create_dir_all(&destination).map_err(BuildError::io(&destination))?;
            place(store, &destination, below, node, &mut files).await?;
        }
    }
    let count = files.len() as u64;
    let links = take_hardlinks(&mut files);
    futures::stream::iter(files.into_iter().map(Ok))
        .try_for_each_concurrent(CONCURRENCY, |file| write_file(store, file))
        .await?;
    for (original, link) in links {
        remove(&link)?;
        fs::hard_link(&original, &link).map_err(BuildError::io(&link))?;
    }
    Ok(count)
}

/// Takes the files out that are further names of another one: (the one that stays, the further name).
fn take_hardlinks(files: &mut Vec<FileToPlace>) -> Vec<(PathBuf, PathBuf)> {
    let mut originals: HashMap<(String, String), PathBuf> = HashMap::new();
    let mut links = Vec::new();
    files.retain(|file| {
        let properties = file.node.node_properties.as_ref();
        let mut named = properties
            .into_iter()
            .flat_map(|properties| &properties.properties);
        let Some(group) = named.find(|property| property.name == HARDLINK_GROUP) else {
            return true;
        };
        // Two tasks may name a group alike; with the same content they may as well be one file.
        let hash = file
            .node
            .digest
            .as_ref()
            .map(|digest| digest.hash.clone())
            .unwrap_or_default();
        match originals.entry((group.value.clone(), hash)) {
            Entry::Vacant(entry) => {
                entry.insert(file.path.clone());
                true
            }
            Entry::Occupied(entry) => {
                links.push((entry.get().clone(), file.path.clone()));
                false
            }
        }
    });
    links
}

/// The targets; those that do nothing themselves stand for what their recipe publishes before them.
fn result_tasks(index: &TaskIndex) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut pending = index.graph().targets.clone();
    let targets: BTreeSet<u32> = pending.iter().copied().collect();
    while let Some(task) = pending.pop() {
        if index.task(task).noexec {
            let recipe = index.task(task).recipe;
            let own = index
                .task(task)
                .dependencies
                .iter()
                .filter(|task| index.task(**task).recipe == recipe);
            pending.extend(own);
        } else if targets.contains(&task) || !index.task(task).published_paths.is_empty() {
            found.insert(task);
        }
    }
    found
}

fn strip<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    if prefix.is_empty() {
        return None;
    }
    path.strip_prefix(prefix)
        .filter(|rest| rest.is_empty() || rest.starts_with('/'))
        .map(|rest| rest.trim_start_matches('/'))
}

/// Makes directories and symbolic links, and collects the files.
async fn place(
    store: &dyn BlobStore,
    destination: &Path,
    below: &str,
    node: &Node,
    files: &mut Vec<FileToPlace>,
) -> Result<(), BuildError> {
    let path = destination.join(below);
    make_directories(
        destination,
        if matches!(node, Node::Stored(_)) {
            below
        } else {
            parent(below)
        },
    )?;
    match node {
        Node::File(file) => files.push(FileToPlace {
            path,
            node: file.clone(),
        }),
        Node::Symlink(link) => place_symlink(&path, link)?,
        Node::Stored(root) => {
            let cache = DirectoryCache::new(DIRECTORY_CACHE);
            let tree = fetch_directory_tree(store, *root, &cache)
                .await
                .map_err(BuildError::store(format!("reading the directories of {below}")))?;
            let mut pending = vec![(below.trim_end_matches('/').to_owned(), *root)];
            while let Some((relative, digest)) = pending.pop() {
                make_directories(destination, &relative)?;
                let Some(directory) = tree.directories.get(&digest) else {
                    continue;
                };
                let here = destination.join(&relative);
                for file in &directory.files {
                    files.push(FileToPlace {
                        path: here.join(&file.name),
                        node: file.clone(),
                    });
                }
                for link in &directory.symlinks {
                    place_symlink(&here.join(&link.name), link)?;
                }
                for child in &directory.directories {
                    // The tree was checked when it was fetched: every digest in it is well formed.
                    if let Ok(digest) = Digest::from_wire_field(FUNCTION, child.digest.as_ref()) {
                        pending.push((format!("{relative}/{}", child.name), digest));
                    }
                }
            }
        }
        Node::Open(_) => {}
    }
    Ok(())
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Makes `relative` below `destination`, never through a symbolic link: an earlier result may have left one there
/// that leads somewhere else.
fn make_directories(destination: &Path, relative: &str) -> Result<(), BuildError> {
    let mut path = destination.to_owned();
    for segment in relative.split('/').filter(|segment| !segment.is_empty()) {
        path.push(segment);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => continue,
            Ok(_) => remove(&path)?,
            Err(_) => {}
        }
        fs::create_dir(&path).map_err(BuildError::io(&path))?;
    }
    Ok(())
}

fn place_symlink(path: &Path, link: &SymlinkNode) -> Result<(), BuildError> {
    remove(path)?;
    symlink(&link.target, path).map_err(BuildError::io(path))
}

/// Removes a file or link of an earlier build, which may be read-only or lead elsewhere.
fn remove(path: &Path) -> Result<(), BuildError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path).map_err(BuildError::io(path)),
        Ok(_) => fs::remove_file(path).map_err(BuildError::io(path)),
        Err(_) => Ok(()),
    }
}

async fn write_file(store: &dyn BlobStore, file: FileToPlace) -> Result<(), BuildError> {
    let path = file.path;
    let digest = Digest::from_wire_field(FUNCTION, file.node.digest.as_ref());
    let Ok(digest) = digest else { return Ok(()) };
    remove(&path)?;
    let mut target = File::create_new(&path).map_err(BuildError::io(&path))?;
    if !digest.is_empty_blob() {
        let context = || format!("downloading {}", path.display());
        let mut blob = store
            .read(digest, BlobRange::default())
            .await
            .map_err(|error| BuildError::store(context())(error))?;
        while let Some(chunk) = blob.next().await {
            let chunk = chunk.map_err(|error| BuildError::store(context())(error))?;
            // Chunks are small and go to the page cache: the runtime has other threads for the network.
            tokio::task::block_in_place(|| target.write_all(&chunk)).map_err(BuildError::io(&path))?;
        }
    }
    let properties = file.node.node_properties.unwrap_or_default();
    let mode = properties
        .unix_mode
        .map_or(if file.node.is_executable { 0o755 } else { 0o644 }, |mode| {
            mode.value
        });
    target
        .set_permissions(Permissions::from_mode(mode & 0o777))
        .map_err(BuildError::io(&path))?;
    if let Some(modified) = modified(&properties) {
        target
            .set_times(FileTimes::new().set_modified(modified))
            .map_err(BuildError::io(&path))?;
    }
    Ok(())
}

fn modified(properties: &NodeProperties) -> Option<SystemTime> {
    let mtime = properties.mtime.as_ref()?;
    let since_epoch = Duration::new(mtime.seconds.try_into().ok()?, mtime.nanos.try_into().ok()?);
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}
