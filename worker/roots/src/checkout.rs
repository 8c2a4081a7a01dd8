//! Checkout of a root on a client's disk. The front end parses in it, and uploads it again if a store has lost it.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitzel_cas::blocking::run_blocking;
use bitzel_cas::directory_tree::{DirectoryTree, batch_length};
use bitzel_cas::{
    BlobRange, BlobSource, BlobStore, DirectoryCache, VerifyingBlobStore, fetch_directory_tree,
};
use bitzel_proto::Digest;
use bitzel_proto::reapi::Directory;
use bitzel_worker::node_properties::{DEFAULT_MTIME, Mtime, hardlink_group, mtime, unix_mode};
use bitzel_worker::tree_totals;
use bytes::Bytes;
use futures::StreamExt as _;
use prost::Message as _;
use rustix::fs::{AtFlags, CWD, utimensat};

use crate::error::Error;
use crate::root_digest::file_name;
use crate::root_tree::{MAX_BYTES, MAX_ENTRIES};

/// Directory messages that are kept while a root is fetched, in bytes.
const DIRECTORY_CACHE_BYTES: u64 = 64 << 20;
/// Files that are fetched in one batch.
const MAX_BATCH_FILES: usize = 1024;
/// Size of a file from which on it is fetched alone.
const MIN_STREAMED_BYTES: u64 = 1 << 20;
/// Name of the file system below the directory of a checkout.
const ROOT: &str = "root";
/// Name of the file with the Directory messages below the directory of a checkout.
const DIRECTORIES: &str = "directories";

/// A root on this machine's disk. Nothing in it is ever changed.
#[derive(Debug, Clone)]
pub struct Checkout {
    digest: Digest,
    directory: PathBuf,
}

impl Checkout {
    /// The checkout of a root below `parent`, if it is there.
    pub fn find(parent: &Path, digest: Digest) -> Option<Self> {
        let directory = parent.join(file_name(digest));
        directory
            .join(ROOT)
            .is_dir()
            .then_some(Self { digest, directory })
    }

    /// The digest of the root.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The root file system.
    pub fn path(&self) -> PathBuf {
        self.directory.join(ROOT)
    }

    /// Fetches a root from a store into a directory below `parent`. [`bitzel_cas::Error::NotFound`] means that the store
    /// does not have all of it.
    pub async fn fetch(parent: &Path, digest: Digest, store: Arc<dyn BlobStore>) -> Result<Self, Error> {
        let store = VerifyingBlobStore::new(store);
        let cache = DirectoryCache::new(DIRECTORY_CACHE_BYTES);
        let tree = Arc::new(fetch_directory_tree(&store, digest, &cache).await?);
        {
            let tree = Arc::clone(&tree);
            run_blocking(move || check_size(&tree)).await?;
        }
        let encoded = encoded_directories(&store, &tree).await?;
        fs::create_dir_all(parent).map_err(Error::io_at("create", parent))?;
        let temporary = tempfile::Builder::new()
            .prefix(".fetch-")
            .tempdir_in(parent)
            .map_err(Error::io_at("create a directory in", parent))?;
        let top = temporary.path().join(ROOT);
        let plan = {
            let (tree, top) = (Arc::clone(&tree), top.clone());
            run_blocking(move || Plan::create(&tree, &top)).await?
        };
        plan.fetch_files(&store).await?;
        let list = temporary.path().join(DIRECTORIES);
        run_blocking(move || {
            plan.finish()?;
            write_directories(&list, &encoded).map_err(Error::io_at("write", &list))
        })
        .await?;
        let directory = parent.join(file_name(digest));
        match fs::rename(temporary.path(), &directory) {
            Ok(()) => drop(temporary.keep()),
            // Another bitzel was faster.
            Err(_) if directory.join(ROOT).is_dir() => {}
            Err(error) => return Err(Error::io_at("rename", temporary.path())(error)),
        }
        Ok(Self { digest, directory })
    }

    /// All blobs of the root, for an upload.
    pub fn blobs(&self) -> Result<Vec<(Digest, BlobSource)>, Error> {
        let path = self.directory.join(DIRECTORIES);
        let encoded = fs::read(&path).map_err(Error::io_at("read", &path))?;
        let directories = self.parse_directories(encoded.into())?;
        let mut blobs: HashMap<Digest, BlobSource> = HashMap::new();
        let mut pending = vec![(self.digest, self.path())];
        while let Some((digest, path)) = pending.pop() {
            let damaged = || Error::DamagedCheckout(self.digest);
            let bytes = directories.get(&digest).ok_or_else(damaged)?;
            let directory = Directory::decode(bytes.clone()).map_err(|_| damaged())?;
            blobs.insert(digest, BlobSource::Bytes(bytes.clone()));
            for node in &directory.files {
                let digest = Digest::from_wire_field(self.digest.function(), node.digest.as_ref())
                    .map_err(|_| damaged())?;
                blobs
                    .entry(digest)
                    .or_insert_with(|| BlobSource::File(path.join(&node.name)));
            }
            for node in &directory.directories {
                let digest = Digest::from_wire_field(self.digest.function(), node.digest.as_ref())
                    .map_err(|_| damaged())?;
                pending.push((digest, path.join(&node.name)));
            }
        }
        Ok(blobs.into_iter().collect())
    }

    fn parse_directories(&self, mut encoded: Bytes) -> Result<HashMap<Digest, Bytes>, Error> {
        let mut directories = HashMap::new();
        while !encoded.is_empty() {
            let directory = take_directory(&mut encoded).ok_or(Error::DamagedCheckout(self.digest))?;
            directories.insert(self.digest.function().digest(&directory), directory);
        }
        Ok(directories)
    }

    /// Removes the checkout of a root, if there is one. Blocks.
    pub fn remove(parent: &Path, digest: Digest) -> Result<(), Error> {
        let directory = parent.join(file_name(digest));
        if !directory.exists() {
            return Ok(());
        }
        // Out of sight of others first: half of a root must not pass for a root.
        let temporary = tempfile::Builder::new()
            .prefix(".remove-")
            .tempdir_in(parent)
            .map_err(Error::io_at("create a directory in", parent))?;
        let moved = temporary.path().join(ROOT);
        fs::rename(&directory, &moved).map_err(Error::io_at("rename", &directory))?;
        make_writable(&moved).map_err(Error::io_at("change the modes of", &moved))?;
        temporary.close().map_err(Error::io_at("remove", &moved))
    }
}

/// Refuses a tree that is larger than an import may be. A few Directories that name each other several times unfold to
/// billions of entries.
fn check_size(tree: &DirectoryTree) -> Result<(), Error> {
    let totals = tree_totals(tree).map_err(|_| Error::DamagedCheckout(tree.root))?;
    if totals.entries > MAX_ENTRIES {
        return Err(Error::TooLarge(format!("{MAX_ENTRIES} entries")));
    }
    if totals.bytes > MAX_BYTES {
        return Err(Error::TooLarge(format!("{MAX_BYTES} bytes")));
    }
    Ok(())
}

/// Gives the owner permission to remove entries.
fn make_writable(directory: &Path) -> io::Result<()> {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

/// One Directory of the list: its length in four bytes, little-endian, and its encoding.
fn take_directory(encoded: &mut Bytes) -> Option<Bytes> {
    let length = encoded.get(..4)?.try_into().ok().map(u32::from_le_bytes)?;
    let end = usize::try_from(length).ok()?.checked_add(4)?;
    let directory = (end <= encoded.len()).then(|| encoded.slice(4..end))?;
    *encoded = encoded.slice(end..);
    Some(directory)
}

fn write_directories(path: &Path, directories: &[Bytes]) -> io::Result<()> {
    let mut file = io::BufWriter::new(File::create(path)?);
    for directory in directories {
        let length = u32::try_from(directory.len()).map_err(io::Error::other)?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(directory)?;
    }
    file.flush()
}

/// The encodings of a tree's Directories as the store has them: another encoding of one would have another digest.
async fn encoded_directories(store: &dyn BlobStore, tree: &DirectoryTree) -> Result<Vec<Bytes>, Error> {
    let digests: Vec<Digest> = tree.directories.keys().copied().collect();
    let mut encoded = Vec::with_capacity(digests.len());
    let mut rest = digests.as_slice();
    while !rest.is_empty() {
        let (batch, later) = rest.split_at(batch_length(rest, MAX_BATCH_FILES));
        rest = later;
        for blob in store.read_batch(batch).await {
            encoded.push(blob?);
        }
    }
    Ok(encoded)
}

/// File of a checkout.
struct PlannedFile {
    path: PathBuf,
    digest: Digest,
    mode: u32,
    mtime: Mtime,
}

/// Steps that are left after the directories and symlinks of a checkout exist.
struct Plan {
    files: Vec<PlannedFile>,
    /// Further names of files: the name, and the first one.
    hardlinks: Vec<(PathBuf, PathBuf)>,
    /// Directories, parents first.
    directories: Vec<(PathBuf, u32, Mtime)>,
}

impl Plan {
    /// Creates directories and symlinks. Names were validated with the tree, and no directory is a symlink, so nothing
    /// is written outside of `top`.
    fn create(tree: &DirectoryTree, top: &Path) -> Result<Self, Error> {
        let mut plan = Self {
            files: vec![],
            hardlinks: vec![],
            directories: vec![],
        };
        let mut linked: HashMap<(String, Digest), PathBuf> = HashMap::new();
        let mut pending = vec![(tree.root, top.to_owned())];
        while let Some((digest, path)) = pending.pop() {
            let directory = tree
                .directories
                .get(&digest)
                .ok_or(bitzel_cas::Error::NotFound(digest))?;
            fs::create_dir(&path).map_err(Error::io_at("create", &path))?;
            let child = |wire: Option<&bitzel_proto::reapi::Digest>| {
                Digest::from_wire_field(digest.function(), wire)
                    .map_err(|_| Error::DamagedCheckout(tree.root))
            };
            for node in &directory.files {
                let properties = node.node_properties.as_ref();
                let file = PlannedFile {
                    path: path.join(&node.name),
                    digest: child(node.digest.as_ref())?,
                    mode: unix_mode(properties).unwrap_or(if node.is_executable { 0o555 } else { 0o444 }),
                    mtime: mtime(properties).unwrap_or(DEFAULT_MTIME),
                };
                if let Some(group) = hardlink_group(properties) {
                    match linked.get(&(group.to_owned(), file.digest)) {
                        Some(first) => {
                            plan.hardlinks.push((file.path, first.clone()));
                            continue;
                        }
                        None => {
                            linked.insert((group.to_owned(), file.digest), file.path.clone());
                        }
                    }
                }
                plan.files.push(file);
            }
            for node in &directory.symlinks {
                let link = path.join(&node.name);
                let time = mtime(node.node_properties.as_ref()).unwrap_or(DEFAULT_MTIME);
                symlink(&node.target, &link).map_err(Error::io_at("create", &link))?;
                utimensat(CWD, &link, &time.timestamps(), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(Error::io_at("set the time of", &link))?;
            }
            for node in &directory.directories {
                pending.push((child(node.digest.as_ref())?, path.join(&node.name)));
            }
            let properties = directory.node_properties.as_ref();
            let mode = unix_mode(properties).unwrap_or(0o755);
            plan.directories
                .push((path, mode, mtime(properties).unwrap_or(DEFAULT_MTIME)));
        }
        Ok(plan)
    }

    /// Writes the contents of all files, small ones in batches.
    async fn fetch_files(&self, store: &dyn BlobStore) -> Result<(), Error> {
        let is_small = |file: &&PlannedFile| file.digest.size_bytes() < MIN_STREAMED_BYTES;
        let (small, large): (Vec<&PlannedFile>, Vec<_>) = self.files.iter().partition(is_small);
        let mut rest = small.as_slice();
        while !rest.is_empty() {
            let digests = rest.iter().map(|file| &file.digest);
            let (batch, later) = rest.split_at(batch_length(digests, MAX_BATCH_FILES));
            rest = later;
            let distinct: HashSet<Digest> = batch.iter().map(|file| file.digest).collect();
            let digests: Vec<Digest> = distinct.into_iter().collect();
            let mut blobs = HashMap::new();
            for (digest, blob) in digests.iter().zip(store.read_batch(&digests).await) {
                blobs.insert(*digest, blob?);
            }
            let contents: Vec<(PathBuf, Bytes)> = batch
                .iter()
                .map(|file| (file.path.clone(), blobs[&file.digest].clone()))
                .collect();
            run_blocking(move || {
                contents.iter().try_for_each(|(path, content)| {
                    fs::write(path, content).map_err(Error::io_at("write", path))
                })
            })
            .await?;
        }
        for file in large {
            let mut blob = store.read(file.digest, BlobRange::default()).await?;
            let mut target = File::create(&file.path).map_err(Error::io_at("create", &file.path))?;
            while let Some(chunk) = blob.next().await {
                let chunk = chunk?;
                let path = file.path.clone();
                target = run_blocking(move || {
                    target.write_all(&chunk).map_err(Error::io_at("write", &path))?;
                    Ok::<_, Error>(target)
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Sets modes and times, those of directories last and children first.
    fn finish(&self) -> Result<(), Error> {
        let set = |path: &Path, mode: u32, time: Mtime| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o1777))
                .map_err(Error::io_at("change the mode of", path))?;
            utimensat(CWD, path, &time.timestamps(), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(Error::io_at("set the time of", path))
        };
        for file in &self.files {
            set(&file.path, file.mode, file.mtime)?;
        }
        for (name, first) in &self.hardlinks {
            fs::hard_link(first, name).map_err(Error::io_at("create", name))?;
        }
        for (path, mode, time) in self.directories.iter().rev() {
            set(path, *mode | 0o500, *time)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
