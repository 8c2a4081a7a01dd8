use std::sync::Arc;

use bitzel_cas::blob_store::one_chunk;
use bitzel_cas::{BlobStore, MemoryBlobStore};
use bitzel_proto::google::protobuf::{Timestamp, UInt32Value};
use bitzel_proto::reapi::{FileNode, NodeProperties, NodeProperty};
use bitzel_proto::{Digest, DigestFunction};
use proptest::prelude::*;

use super::fetch::{Fetch, Purpose};
use super::key::{FileKey, Identity};
use super::{FileCache, disk};
use crate::error::Error;
use crate::node_properties::Mtime;
use crate::worker_directories::WorkerDirectories;

fn node(mode: Option<u32>, seconds: Option<i64>, group: Option<&str>) -> FileNode {
    FileNode {
        name: "x".into(),
        digest: Some(DigestFunction::Sha256.digest(b"x").into()),
        is_executable: false,
        node_properties: Some(NodeProperties {
            properties: group
                .map(|value| NodeProperty {
                    name: "hardlink-group".into(),
                    value: value.into(),
                })
                .into_iter()
                .collect(),
            mtime: seconds.map(|seconds| Timestamp { seconds, nanos: 5 }),
            unix_mode: mode.map(|value| UInt32Value { value }),
        }),
    }
}

fn key(node: &FileNode, path: &str) -> FileKey {
    FileKey::of_node(DigestFunction::Sha256, node, path).unwrap()
}

#[test]
fn files_with_times_share_no_inode_without_a_group() {
    let plain = node(None, None, None);
    assert_eq!(key(&plain, "a"), key(&plain, "b"));
    assert_ne!(key(&plain, "a"), key(&node(Some(0o644), None, None), "a"));
    let dated = node(Some(0o644), Some(7), None);
    assert_ne!(key(&dated, "a"), key(&dated, "b"));
    assert_eq!(key(&dated, "a"), key(&dated, "a"));
    let linked = node(Some(0o644), Some(7), Some("a"));
    assert_eq!(key(&linked, "a"), key(&linked, "b"));
    assert_ne!(key(&linked, "a"), key(&dated, "a"));
    assert_ne!(
        key(&linked, "a"),
        key(&node(Some(0o644), Some(8), Some("a")), "a")
    );
}

#[test]
fn a_key_holds_only_the_permission_bits() {
    assert_eq!(key(&node(Some(0o104_755), None, None), "a").mode, 0o4755);
}

proptest! {
    #[test]
    fn parses_the_text_form_of_a_key(
        hash: [u8; 32], size: u32, blake3: bool, mode in 0_u32..0o10000,
        identity: Option<(i64, u32, [u8; 16])>,
    ) {
        let function = if blake3 { DigestFunction::Blake3 } else { DigestFunction::Sha256 };
        let key = FileKey {
            digest: Digest::new(function, hash, size.into()),
            mode,
            identity: identity.map(|(seconds, nanos, name)| Identity {
                mtime: Mtime { seconds: seconds >> 8, nanos: nanos % 1_000_000_000 },
                name,
            }),
        };
        prop_assert_eq!(FileKey::parse(&key.to_string()), Some(key));
    }
}

#[test]
fn refuses_names_that_are_not_keys() {
    let text = key(&node(Some(0o644), Some(7), None), "a").to_string();
    let (prefix, name) = text.split_once('/').unwrap();
    assert!(FileKey::parse(&text).is_some());
    let broken = [
        name.to_owned(),
        format!("00/{name}"),
        format!("{prefix}/{name}-x"),
        format!("{prefix}/{}", name.replace("sha256", "md5")),
        format!("{prefix}/{}", name.replace("-644", "-689")),
        format!("{prefix}/{}", &name[..name.len() - 1]),
    ];
    for text in broken {
        assert_eq!(FileKey::parse(&text), None, "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f22_an_eviction_removes_no_file_that_was_fetched_again() {
    const FILES: usize = 1000;
    let directory = tempfile::tempdir().unwrap();
    let directories = WorkerDirectories::open(directory.path(), None).unwrap();
    let store = MemoryBlobStore::default();
    let mut keys = vec![];
    for number in 0..FILES {
        let content = number.to_string().into_bytes();
        let digest = DigestFunction::Sha256.digest(&content);
        store.write(digest, one_chunk(content.into())).await.unwrap();
        keys.push(FileKey {
            digest,
            mode: 0o444,
            identity: None,
        });
    }
    // Each file takes a block.
    let cache = FileCache::open(directories, (FILES as u64) << 11).unwrap();
    for _ in 0..10 {
        let all = cache.fetch(&store, keys.iter().copied()).await.unwrap();
        drop(all);
        let evicting = Arc::clone(&cache);
        let evicted = tokio::task::spawn_blocking(move || evicting.evict());
        while !evicted.is_finished() {
            for key in &keys[..20] {
                cache.fetch(&store, [*key]).await.unwrap();
            }
        }
        evicted.await.unwrap();
        for key in &keys {
            let path = cache.path(key);
            assert!(
                !cache.index.lock().contains(key) || path.exists(),
                "{key} is lost"
            );
        }
    }
}

#[test]
fn f23_a_fetch_that_is_over_writes_no_further_file() {
    let directory = tempfile::tempdir().unwrap();
    let directories = WorkerDirectories::open(directory.path(), None).unwrap();
    let cache = FileCache::open(directories, u64::MAX).unwrap();
    let (fetch, end) = Fetch::new(&cache, Purpose::Action);
    let keys: Vec<FileKey> = ["a", "b"]
        .map(|path| key(&node(None, Some(7), None), path))
        .to_vec();
    disk::write_small(&fetch, keys[0].digest, b"x", &keys[..1]).unwrap();
    assert!(cache.index.lock().contains(&keys[0]), "an eviction would find it");
    drop(end);
    let written = disk::write_small(&fetch, keys[0].digest, b"x", &keys);
    assert!(matches!(written, Err(Error::Cancelled)), "{written:?}");
    assert!(!cache.path(&keys[1]).exists());
}
