use bitzel_proto::DigestFunction;
use bitzel_proto::reapi::{Directory, DirectoryNode, FileNode, SymlinkNode};
use proptest::prelude::*;

use prost::Message as _;

use super::*;
use crate::blob_store::{BlobRange, BlobStream, Lease, one_chunk};
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::sha256;

fn file(name: &str) -> FileNode {
    FileNode {
        name: name.into(),
        digest: Some(sha256(b"content").to_wire()),
        ..FileNode::default()
    }
}

fn symlink(name: &str, target: &str) -> SymlinkNode {
    SymlinkNode {
        name: name.into(),
        target: target.into(),
        node_properties: None,
    }
}

fn node(name: &str, digest: Digest) -> DirectoryNode {
    DirectoryNode {
        name: name.into(),
        digest: Some(digest.to_wire()),
    }
}

fn of_files(names: &[&str]) -> Directory {
    Directory {
        files: names.iter().map(|name| file(name)).collect(),
        ..Directory::default()
    }
}

fn of_directories(children: &[(&str, Digest)]) -> Directory {
    Directory {
        directories: children
            .iter()
            .map(|(name, digest)| node(name, *digest))
            .collect(),
        ..Directory::default()
    }
}

async fn add(store: &MemoryBlobStore, directory: &Directory) -> Digest {
    let (digest, blob) = Digest::of_message(DigestFunction::Sha256, directory);
    store.write(digest, one_chunk(blob.into())).await.unwrap();
    digest
}

fn cache() -> DirectoryCache {
    DirectoryCache::new(1 << 20)
}

#[test]
fn ordinary_directories_are_valid() {
    let directory = Directory {
        files: vec![
            file("..."),
            file("B"),
            file("a"),
            file("a b"),
            file("ä"),
            file("💾"),
        ],
        directories: vec![node("-", sha256(b"")), node("c", sha256(b""))],
        symlinks: vec![
            symlink("l", "/absolute"),
            symlink("m", "../../up"),
            symlink("n", "dangling"),
        ],
        node_properties: None,
    };
    assert_eq!(validate_directory(&directory), Ok(()));
}

#[test]
fn names_that_leave_their_directory_are_refused() {
    let long = "x".repeat(256);
    for name in ["", ".", "..", "a/b", "/", "/etc", "a\0b", &long] {
        let as_file = of_files(&[name]);
        let as_directory = of_directories(&[(name, sha256(b""))]);
        let as_symlink = Directory {
            symlinks: vec![symlink(name, "target")],
            ..Directory::default()
        };
        for directory in [as_file, as_directory, as_symlink] {
            let result = validate_directory(&directory);
            assert!(
                matches!(result, Err(InvalidDirectory::Name { .. })),
                "{name:?}: {result:?}"
            );
        }
    }
}

#[test]
fn a_name_occurs_once_over_all_kinds() {
    let twice = of_files(&["a", "a"]);
    let file_and_directory = Directory {
        directories: vec![node("a", sha256(b""))],
        ..of_files(&["a"])
    };
    let file_and_symlink = Directory {
        symlinks: vec![symlink("a", "b")],
        ..of_files(&["a"])
    };
    for directory in [twice, file_and_directory, file_and_symlink] {
        assert_eq!(
            validate_directory(&directory),
            Err(InvalidDirectory::Duplicate("a".into()))
        );
    }
}

#[test]
fn unsorted_names_and_invalid_digests_and_targets_are_refused() {
    let unsorted = validate_directory(&of_files(&["b", "a"]));
    assert!(matches!(
        unsorted,
        Err(InvalidDirectory::Unsorted { kind: "files", .. })
    ));
    let mut nameless = of_files(&["a"]);
    nameless.files[0].digest = None;
    assert!(matches!(
        validate_directory(&nameless),
        Err(InvalidDirectory::Digest { .. })
    ));
    let mut negative = of_directories(&[("a", sha256(b""))]);
    negative.directories[0].digest.as_mut().unwrap().size_bytes = -1;
    assert!(matches!(
        validate_directory(&negative),
        Err(InvalidDirectory::Digest { .. })
    ));
    for target in ["", "a\0b"] {
        let directory = Directory {
            symlinks: vec![symlink("a", target)],
            ..Directory::default()
        };
        assert!(matches!(
            validate_directory(&directory),
            Err(InvalidDirectory::Target { .. })
        ));
    }
}

proptest! {
    #[test]
    fn a_valid_directory_has_only_single_segment_distinct_names(
        names in prop::collection::vec("[a./\0]{0,3}", 0..4),
        targets in prop::collection::vec("[a./\0]{0,3}", 0..4),
    ) {
        let mut sorted = names.clone();
        sorted.sort();
        let directory = Directory {
            symlinks: targets.iter().enumerate().map(|(at, target)| symlink(&format!("l{at}"), target)).collect(),
            ..of_files(&sorted.iter().map(String::as_str).collect::<Vec<_>>())
        };
        if validate_directory(&directory).is_ok() {
            for name in &sorted {
                let path = std::path::Path::new(name);
                let components: Vec<_> = path.components().collect();
                prop_assert!(matches!(&components[..], [std::path::Component::Normal(only)] if *only == name.as_str()));
            }
            sorted.dedup();
            prop_assert_eq!(sorted.len(), names.len());
            prop_assert!(targets.iter().all(|target| !target.is_empty() && !target.contains('\0')));
        }
    }
}

#[tokio::test]
async fn a_tree_is_fetched_from_the_cache_the_second_time() {
    let store = MemoryBlobStore::default();
    let shared = add(&store, &of_files(&["f"])).await;
    let left = add(&store, &of_directories(&[("shared", shared)])).await;
    let right = add(
        &store,
        &of_directories(&[("again", shared), ("empty", sha256(b""))]),
    )
    .await;
    let root = add(&store, &of_directories(&[("left", left), ("right", right)])).await;
    let cache = cache();
    let tree = fetch_directory_tree(&store, root, &cache).await.unwrap();
    assert_eq!(tree.root, root);
    let mut digests: Vec<Digest> = tree.directories.keys().copied().collect();
    digests.sort_unstable();
    let mut expected = vec![root, left, right, shared, sha256(b"")];
    expected.sort_unstable();
    assert_eq!(digests, expected);
    assert_eq!(tree.directories[&shared].files[0].name, "f");

    let nothing = MemoryBlobStore::default();
    let again = fetch_directory_tree(&nothing, root, &cache).await.unwrap();
    assert_eq!(again.directories.len(), 5);
    let other_cache = DirectoryCache::new(0);
    let missing = fetch_directory_tree(&nothing, root, &other_cache).await;
    assert!(matches!(missing, Err(Error::NotFound(digest)) if digest == root));
}

#[tokio::test]
async fn a_missing_subdirectory_is_named() {
    let store = MemoryBlobStore::default();
    let gone = sha256(b"gone");
    let root = add(&store, &of_directories(&[("gone", gone)])).await;
    let result = fetch_directory_tree(&store, root, &cache()).await;
    assert!(matches!(result, Err(Error::NotFound(digest)) if digest == gone));
}

#[tokio::test]
async fn an_invalid_directory_deep_down_fails_the_tree() {
    let store = MemoryBlobStore::default();
    let evil = add(&store, &of_files(&["../../etc/passwd"])).await;
    let root = add(&store, &of_directories(&[("a", evil)])).await;
    let result = fetch_directory_tree(&store, root, &cache()).await;
    assert!(matches!(result, Err(Error::InvalidDirectory { digest, .. }) if digest == evil));
    let text = sha256(b"\xff\xff");
    store
        .write(text, one_chunk(Bytes::from_static(b"\xff\xff")))
        .await
        .unwrap();
    let result = fetch_directory_tree(&store, text, &cache()).await;
    assert!(matches!(result, Err(Error::Decode { .. })));
}

/// Answers every read with the same bytes.
struct StubbornBlobStore(Bytes);

#[async_trait::async_trait]
impl BlobStore for StubbornBlobStore {
    async fn find_missing(&self, _: &[Digest]) -> Result<Vec<Digest>, Error> {
        Ok(vec![])
    }

    async fn read(&self, _: Digest, _: BlobRange) -> Result<BlobStream, Error> {
        Ok(one_chunk(self.0.clone()))
    }

    async fn write(&self, _: Digest, _: BlobStream) -> Result<(), Error> {
        Ok(())
    }

    async fn lease(&self, _: &[Digest]) -> Result<Lease, Error> {
        Ok(Lease::none())
    }

    async fn resolve(&self, _: DigestFunction, _: [u8; 32]) -> Result<Option<Digest>, Error> {
        Ok(None)
    }
}

#[tokio::test]
async fn a_store_cannot_make_a_cycle() {
    let itself = of_directories(&[("again", sha256(b"root"))]);
    let store = StubbornBlobStore(itself.encode_to_vec().into());
    let result = fetch_directory_tree(&store, sha256(b"root"), &cache()).await;
    assert!(matches!(result, Err(Error::DigestMismatch { .. })));
}

#[tokio::test]
async fn depth_is_limited_by_the_longest_path() {
    let store = MemoryBlobStore::default();
    let mut chain = vec![add(&store, &Directory::default()).await];
    for _ in 0..MAX_DEPTH {
        let below = *chain.last().unwrap();
        chain.push(add(&store, &of_directories(&[("d", below)])).await);
    }
    let deepest_allowed = chain[MAX_DEPTH - 1];
    let tree = fetch_directory_tree(&store, deepest_allowed, &cache())
        .await
        .unwrap();
    assert_eq!(tree.directories.len(), MAX_DEPTH);
    let result = fetch_directory_tree(&store, chain[MAX_DEPTH], &cache()).await;
    assert!(
        matches!(result, Err(Error::TreeTooLarge { .. })),
        "one level more"
    );
    // Every Directory is near the root by one path, but not by all.
    let names: Vec<String> = (0..MAX_DEPTH).map(|number| format!("{number:04}")).collect();
    let children: Vec<(&str, Digest)> = names
        .iter()
        .map(String::as_str)
        .zip(chain[..MAX_DEPTH].iter().copied())
        .collect();
    let hidden = add(&store, &of_directories(&children)).await;
    let result = fetch_directory_tree(&store, hidden, &cache()).await;
    assert!(matches!(result, Err(Error::TreeTooLarge { .. })), "hidden depth");
}

#[tokio::test]
async fn directories_with_repetitions_are_limited() {
    let store = MemoryBlobStore::default();
    let mut below = add(&store, &Directory::default()).await;
    for _ in 0..100 {
        below = add(&store, &of_directories(&[("a", below), ("b", below)])).await;
    }
    let result = fetch_directory_tree(&store, below, &cache()).await;
    let Err(Error::TreeTooLarge { what, .. }) = result else {
        panic!("2^100 directories");
    };
    assert!(what.contains("repeated ones counted"), "{what}");
}
