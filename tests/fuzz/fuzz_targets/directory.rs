//! Directory trees from clients: for any blobs, a fetched tree has no path that leads out of its root.

#![no_main]

use std::path::{Component, Path};

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{BlobStore as _, DirectoryCache, MemoryBlobStore, fetch_directory_tree};
use bitzel_proto::DigestFunction;
use bitzel_proto::reapi::{Directory, DirectoryNode};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

/// The blobs of a tree. Each is a child of the root with one of `names`.
#[derive(Debug, arbitrary::Arbitrary)]
struct Input {
    blobs: Vec<Vec<u8>>,
    names: Vec<String>,
    root: Option<Vec<u8>>,
}

fuzz_target!(|input: Input| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let store = MemoryBlobStore::default();
        let mut children = vec![];
        for (blob, name) in input.blobs.iter().zip(&input.names) {
            let digest = DigestFunction::Sha256.digest(blob);
            store
                .write(digest, one_chunk(Bytes::from(blob.clone())))
                .await
                .expect("memory takes everything");
            children.push(DirectoryNode {
                name: name.clone(),
                digest: Some(digest.to_wire()),
            });
        }
        children.sort_by(|a, b| a.name.cmp(&b.name));
        let built = Directory {
            directories: children,
            ..Directory::default()
        };
        let root = input.root.unwrap_or_else(|| built.encode_to_vec());
        let digest = DigestFunction::Sha256.digest(&root);
        store
            .write(digest, one_chunk(Bytes::from(root)))
            .await
            .expect("memory takes everything");
        let Ok(tree) = fetch_directory_tree(&store, digest, &DirectoryCache::new(1 << 20)).await else {
            return;
        };
        for directory in tree.directories.values() {
            let files = directory.files.iter().map(|file| &file.name);
            let directories = directory.directories.iter().map(|child| &child.name);
            let symlinks = directory.symlinks.iter().map(|symlink| &symlink.name);
            for name in files.chain(directories).chain(symlinks) {
                let mut components = Path::new(name).components();
                assert!(matches!(components.next(), Some(Component::Normal(only)) if only == name.as_str()));
                assert_eq!(components.next(), None, "{name:?} is more than one segment");
            }
        }
    });
});
