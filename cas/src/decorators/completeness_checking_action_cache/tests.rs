use bitzel_proto::reapi::{Directory, DirectoryNode, FileNode, OutputDirectory, OutputFile, Tree};
use bytes::Bytes;
use prost::Message as _;

use super::*;
use crate::blob_store::{BlobStore, one_chunk};
use crate::media::memory_action_cache::MemoryActionCache;
use crate::media::memory_blob_store::MemoryBlobStore;
use crate::testing::sha256;
use crate::{PossessionKey, TenantNames};

struct Setup {
    store: Arc<MemoryBlobStore>,
    cache: CompletenessCheckingActionCache,
}

fn setup() -> Setup {
    let store = Arc::new(MemoryBlobStore::default());
    let inner = Arc::new(MemoryActionCache::default());
    let cache = CompletenessCheckingActionCache::new(inner, Arc::clone(&store) as Arc<dyn BlobStore>);
    Setup { store, cache }
}

impl Setup {
    async fn add(&self, blob: &[u8]) -> Digest {
        let digest = sha256(blob);
        self.store
            .write(digest, one_chunk(Bytes::copy_from_slice(blob)))
            .await
            .unwrap();
        digest
    }

    async fn is_hit(&self, result: &ActionResult) -> bool {
        let action = sha256(b"action");
        let instance = InstanceName::default();
        self.cache.put(&instance, action, result.clone()).await.unwrap();
        self.cache.get(&instance, action).await.unwrap().is_some()
    }
}

fn file(name: &str, content: &[u8]) -> FileNode {
    FileNode {
        name: name.into(),
        digest: Some(sha256(content).to_wire()),
        ..FileNode::default()
    }
}

fn child(name: &str, directory: &Directory) -> DirectoryNode {
    DirectoryNode {
        name: name.into(),
        digest: Some(sha256(&directory.encode_to_vec()).to_wire()),
    }
}

/// An output directory `top/inner/deep`, where `deep` is a file beside `shallow` in `top`.
fn directories() -> (Directory, Directory) {
    let inner = Directory {
        files: vec![file("deep", b"deep")],
        ..Directory::default()
    };
    let top = Directory {
        files: vec![file("shallow", b"shallow")],
        directories: vec![child("inner", &inner)],
        ..Directory::default()
    };
    (top, inner)
}

fn with_directory(tree: Option<Digest>, root: Option<Digest>) -> ActionResult {
    ActionResult {
        output_directories: vec![OutputDirectory {
            path: "top".into(),
            tree_digest: tree.map(|digest| digest.to_wire()),
            root_directory_digest: root.map(|digest| digest.to_wire()),
            ..OutputDirectory::default()
        }],
        ..ActionResult::default()
    }
}

#[tokio::test]
async fn a_result_without_outputs_is_a_hit_and_an_unknown_one_is_not() {
    let setup = setup();
    let unknown = setup
        .cache
        .get(&InstanceName::default(), sha256(b"unknown"))
        .await
        .unwrap();
    assert_eq!(unknown, None);
    assert!(setup.is_hit(&ActionResult::default()).await);
}

#[tokio::test]
async fn files_stdout_and_stderr_must_be_there() {
    let named = |content: &[u8]| Some(sha256(content).to_wire());
    let results = [
        ActionResult {
            output_files: vec![OutputFile {
                path: "a".into(),
                digest: named(b"content"),
                ..OutputFile::default()
            }],
            ..ActionResult::default()
        },
        ActionResult {
            stdout_digest: named(b"content"),
            ..ActionResult::default()
        },
        ActionResult {
            stderr_digest: named(b"content"),
            ..ActionResult::default()
        },
    ];
    for result in results {
        let setup = setup();
        assert!(!setup.is_hit(&result).await, "{result:?}");
        setup.add(b"content").await;
        assert!(setup.is_hit(&result).await, "{result:?}");
    }
}

#[tokio::test]
async fn a_tree_and_every_file_in_it_must_be_there() {
    let setup = setup();
    let (top, inner) = directories();
    let tree = Tree {
        root: Some(top),
        children: vec![inner],
    };
    let tree = tree.encode_to_vec();
    let result = with_directory(Some(sha256(&tree)), None);
    assert!(!setup.is_hit(&result).await);
    setup.add(&tree).await;
    assert!(!setup.is_hit(&result).await);
    setup.add(b"shallow").await;
    assert!(
        !setup.is_hit(&result).await,
        "the file in the inner directory is missing"
    );
    setup.add(b"deep").await;
    assert!(setup.is_hit(&result).await);
}

#[tokio::test]
async fn every_directory_and_file_of_a_tree_must_be_present() {
    let setup = setup();
    let (top, inner) = directories();
    let result = with_directory(None, Some(sha256(&top.encode_to_vec())));
    let needed = [
        top.encode_to_vec(),
        inner.encode_to_vec(),
        b"shallow".to_vec(),
        b"deep".to_vec(),
    ];
    for blob in needed {
        assert!(!setup.is_hit(&result).await);
        setup.add(&blob).await;
    }
    assert!(setup.is_hit(&result).await);
}

#[tokio::test]
async fn a_blob_that_goes_away_after_the_first_look_makes_a_miss() {
    // The decorator remembers Trees and Directories; it must not remember that they are there.
    let (top, inner) = directories();
    let tree = Tree {
        root: Some(top.clone()),
        children: vec![inner.clone()],
    };
    let blobs = [
        tree.encode_to_vec(),
        top.encode_to_vec(),
        inner.encode_to_vec(),
        b"shallow".to_vec(),
        b"deep".to_vec(),
    ];
    for lost in 0..blobs.len() {
        let setup = setup();
        for blob in &blobs {
            setup.add(blob).await;
        }
        let result = with_directory(Some(sha256(&blobs[0])), Some(sha256(&blobs[1])));
        assert!(setup.is_hit(&result).await);
        setup.store.remove(sha256(&blobs[lost]));
        assert!(!setup.is_hit(&result).await, "blob {lost} is gone");
    }
}

#[tokio::test]
async fn a_malformed_result_is_a_miss() {
    let setup = setup();
    let garbage = setup.add(b"\xff\xff garbage").await;
    let nameless = ActionResult {
        output_files: vec![OutputFile::default()],
        ..ActionResult::default()
    };
    let results = [
        nameless,
        with_directory(None, None),
        with_directory(Some(garbage), None),
        with_directory(None, Some(garbage)),
    ];
    for result in results {
        assert!(!setup.is_hit(&result).await, "{result:?}");
    }
}

/// Notes how many blobs each search is for.
struct Searched {
    inner: Arc<dyn BlobStore>,
    searches: parking_lot::Mutex<Vec<usize>>,
}

#[async_trait]
impl BlobStore for Searched {
    crate::forward_blob_store!(inner: read, write, lease, resolve, read_batch, write_batch);

    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        self.searches.lock().push(digests.len());
        self.inner.find_missing(digests).await
    }
}

/// The Tree of another tenant is remembered, but not looked into.
#[tokio::test]
async fn f12_a_tree_of_another_tenant_is_not_expanded() {
    struct ByInstance;

    impl TenantNames for ByInstance {
        fn tenant(&self, instance: &InstanceName) -> String {
            instance.to_string()
        }
    }

    let searched = Arc::new(Searched {
        inner: Arc::new(MemoryBlobStore::default()),
        searches: parking_lot::Mutex::default(),
    });
    let store = Arc::clone(&searched) as Arc<dyn BlobStore>;
    let stores = InstanceBlobStores::isolated(store, Arc::new(ByInstance), PossessionKey::new(b"secret"));
    let inner = Arc::new(MemoryActionCache::default());
    let cache = CompletenessCheckingActionCache::new(inner, stores.clone());
    let [one, other] = ["one", "other"].map(|name| InstanceName::new(name).unwrap());

    let (top, inner) = directories();
    let tree = Tree {
        root: Some(top),
        children: vec![inner],
    };
    let tree = tree.encode_to_vec();
    let digest = sha256(&tree);
    let blobs = [&tree[..], b"deep", b"shallow"].map(|blob| (sha256(blob), Bytes::copy_from_slice(blob)));
    let written = stores.store(&one).write_batch(blobs.into()).await;
    assert!(written.iter().all(Result::is_ok));
    let action = sha256(b"action");
    for instance in [&one, &other] {
        let result = with_directory(Some(digest), None);
        cache.put(instance, action, result).await.unwrap();
    }
    assert!(cache.get(&one, action).await.unwrap().is_some());
    searched.searches.lock().clear();
    assert!(cache.get(&other, action).await.unwrap().is_none());
    assert_eq!(*searched.searches.lock(), [1], "the marker of the Tree");
}
