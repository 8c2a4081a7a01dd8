//! Images: OCI image layouts, as a directory or as an archive, and archives that `docker save` writes.
//!
//! The types here are the few fields of the image specification that a root file system needs; the crate `oci-spec` would
//! bring several macro crates for these.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ImportedRoot;
use super::archive::{ArchiveEntries, MAX_ARCHIVE_BYTES, finish};
use super::spool::{Spool, SpooledFiles};
use super::stream::{HashingReader, decompressed};
use crate::error::Error;
use crate::losses::Losses;
use crate::root_tree::RootTree;

/// Limit of a JSON document of an image.
const MAX_DOCUMENT_BYTES: u64 = 8 << 20;
/// Limit of the layers of an image.
const MAX_LAYERS: usize = 1024;
/// Limit of indexes that refer to indexes.
const MAX_INDEX_LEVELS: usize = 4;

/// Place of an image layout.
pub(super) enum Layout<'layout> {
    Directory(&'layout Path),
    Archive {
        tree: &'layout RootTree,
        blobs: &'layout SpooledFiles,
    },
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Manifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
struct Configuration {
    rootfs: RootFileSystem,
}

#[derive(Deserialize)]
struct RootFileSystem {
    diff_ids: Vec<String>,
}

/// Image in the file `manifest.json` of `docker save`. Layers are named by paths and not by digests.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    layers: Vec<String>,
}

/// A layer with the digests that it has to have.
struct Layer<'image> {
    name: &'image str,
    file: File,
    /// Digest as it is stored, if the image has it.
    stored: Option<&'image str>,
    /// Digest of the content without compression.
    content: &'image str,
}

/// Reads the image of this machine's platform.
pub(super) fn import(layout: &Layout<'_>, mut spool: Spool) -> Result<ImportedRoot, Error> {
    let path = layout.path(&["index.json"])?;
    let file = File::open(&path).map_err(Error::io_at("open", &path))?;
    let index: Index = parse("index.json", &bounded(file, "index.json")?)?;
    let manifest = layout.manifest(index, 0)?;
    let configuration: Configuration = layout.document(&manifest.config)?;
    let diff_ids = configuration.rootfs.diff_ids;
    check_count(manifest.layers.len(), &diff_ids)?;
    let (mut tree, mut losses) = (RootTree::default(), Losses::default());
    for (layer, diff_id) in manifest.layers.iter().zip(&diff_ids) {
        let layer = Layer {
            name: &layer.digest,
            file: layout.open(layer)?,
            stored: Some(&layer.digest),
            content: diff_id,
        };
        layer.read(&mut spool)?.apply(&mut tree, &mut losses)?;
    }
    finish(&tree, losses, spool)
}

/// Reads the only image of an archive that `docker save` wrote.
pub(super) fn import_saved(layout: &Layout<'_>, mut spool: Spool) -> Result<ImportedRoot, Error> {
    let images: Vec<SavedImage> = layout.named_document("manifest.json")?;
    let [image] = &images[..] else {
        return Err(Error::Image(format!(
            "it has {} images; save the one that you want alone",
            images.len()
        )));
    };
    let configuration: Configuration = layout.named_document(&image.config)?;
    let diff_ids = configuration.rootfs.diff_ids;
    check_count(image.layers.len(), &diff_ids)?;
    let (mut tree, mut losses) = (RootTree::default(), Losses::default());
    for (name, diff_id) in image.layers.iter().zip(&diff_ids) {
        let layer = Layer {
            name,
            file: layout.open_named(name)?,
            stored: None,
            content: diff_id,
        };
        layer.read(&mut spool)?.apply(&mut tree, &mut losses)?;
    }
    finish(&tree, losses, spool)
}

fn check_count(layers: usize, diff_ids: &[String]) -> Result<(), Error> {
    if layers == diff_ids.len() && layers <= MAX_LAYERS {
        return Ok(());
    }
    Err(Error::Image(format!(
        "its manifest has {layers} layers, its configuration {}; at most {MAX_LAYERS} are read",
        diff_ids.len()
    )))
}

impl Layout<'_> {
    /// Path on this machine of a file of the layout.
    fn path(&self, names: &[&str]) -> Result<PathBuf, Error> {
        match self {
            Self::Directory(top) => Ok(top.join(names.iter().collect::<PathBuf>())),
            Self::Archive { tree, blobs } => {
                let digest = tree.file(names);
                let file = digest.and_then(|digest| blobs.files.get(&digest));
                file.cloned()
                    .ok_or_else(|| Error::Image(format!("it has no file {}", names.join("/"))))
            }
        }
    }

    /// Opens a blob, with its digest and its size as they should be.
    fn open(&self, descriptor: &Descriptor) -> Result<File, Error> {
        let hash = sha256_of(&descriptor.digest)?;
        let path = self.path(&["blobs", "sha256", hash])?;
        let file = File::open(&path).map_err(Error::io_at("open", &path))?;
        let size = file.metadata().map_err(Error::io_at("read", &path))?.len();
        if size != descriptor.size {
            return Err(Error::Image(format!(
                "blob {} has {size} bytes instead of {}",
                descriptor.digest, descriptor.size
            )));
        }
        Ok(file)
    }

    fn document<T: DeserializeOwned>(&self, descriptor: &Descriptor) -> Result<T, Error> {
        let mut reader = HashingReader::new(self.open(descriptor)?);
        let bytes = bounded(&mut reader, &descriptor.digest)?;
        check(&descriptor.digest, &descriptor.digest, reader)?;
        parse(&descriptor.digest, &bytes)
    }

    /// The manifest of the only image for this machine's platform.
    fn manifest(&self, index: Index, level: usize) -> Result<Manifest, Error> {
        let mut images = index.manifests;
        if images.len() > 1 {
            images.retain(|image| image.platform.as_ref().is_none_or(Platform::is_ours));
        }
        let [image] = &images[..] else {
            return Err(Error::Image(format!(
                "it has {} images for {} on linux; copy the one that you want alone, for example with \
                 `skopeo copy`",
                images.len(),
                our_architecture()
            )));
        };
        let is_index = image.media_type.contains("image.index") || image.media_type.contains("manifest.list");
        if !is_index {
            return self.document(image);
        }
        if level >= MAX_INDEX_LEVELS {
            return Err(Error::Image(
                "its indexes refer to further ones without end".to_owned(),
            ));
        }
        self.manifest(self.document(image)?, level + 1)
    }

    /// Opens a file of the layout by its path.
    fn open_named(&self, name: &str) -> Result<File, Error> {
        let path = self.path(&name.split('/').collect::<Vec<_>>())?;
        File::open(&path).map_err(Error::io_at("open", &path))
    }

    fn named_document<T: DeserializeOwned>(&self, name: &str) -> Result<T, Error> {
        parse(name, &bounded(self.open_named(name)?, name)?)
    }
}

impl Layer<'_> {
    /// Reads the entries. Digests are checked of the layer as it is stored, and of its content without compression.
    fn read(self, spool: &mut Spool) -> Result<ArchiveEntries, Error> {
        let name = self.name;
        let unreadable = |error: io::Error| Error::Image(format!("layer {name} cannot be read: {error}"));
        sha256_of(self.content)?;
        let mut stored = HashingReader::new(self.file);
        let entries = {
            let content = decompressed(&mut stored).map_err(unreadable)?;
            let mut content = HashingReader::new(content.take(MAX_ARCHIVE_BYTES + 1));
            let entries = ArchiveEntries::read(&mut content, true, spool)?;
            check(&format!("the content of layer {name}"), self.content, content)?;
            entries
        };
        if let Some(digest) = self.stored {
            check(&format!("layer {name}"), digest, stored)?;
        }
        Ok(entries)
    }
}

impl Platform {
    fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == our_architecture()
    }
}

/// Name of this machine's architecture in images, which is that of Go.
fn our_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// Hash of a digest as images write it.
fn sha256_of(digest: &str) -> Result<&str, Error> {
    let hash = digest.strip_prefix("sha256:").unwrap_or_default();
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hash {
        return Ok(hash);
    }
    let shown: String = digest.chars().take(100).collect();
    Err(Error::Image(format!("{shown:?} is not a SHA-256 digest")))
}

/// Reads the rest, and compares the digest of all.
fn check(what: &str, expected: &str, reader: HashingReader<impl Read>) -> Result<(), Error> {
    let digest = reader
        .finish()
        .map_err(|error| Error::Image(format!("{what} cannot be read: {error}")))?;
    let found = format!("sha256:{}", digest.hash_hex());
    if found.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(Error::WrongDigest {
        what: what.to_owned(),
        expected: expected.to_owned(),
        found,
    })
}

fn bounded(reader: impl Read, name: &str) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![];
    reader
        .take(MAX_DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::Image(format!("{name} cannot be read: {error}")))?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(Error::TooLarge(format!("{MAX_DOCUMENT_BYTES} bytes in {name}")));
    }
    Ok(bytes)
}

fn parse<T: DeserializeOwned>(name: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Image(format!("{name}: {error}")))
}
