#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::os::unix::fs::MetadataExt as _;

use bitzel_cas::{MemoryBlobStore, upload_missing};
use bitzel_proto::reapi::{DirectoryNode, FileNode};

use super::*;
use crate::import::import;
use crate::root_digest::ROOT_DIGEST_FUNCTION;

/// A root with links, times and modes in a directory, and its import.
fn example(directory: &Path) -> crate::ImportedRoot {
    let top = directory.join("source");
    fs::create_dir_all(top.join("usr/bin")).unwrap();
    fs::create_dir(top.join("closed")).unwrap();
    fs::write(top.join("usr/bin/tool"), "tool").unwrap();
    fs::write(top.join("closed/file"), vec![7; 3 << 20]).unwrap();
    fs::hard_link(top.join("usr/bin/tool"), top.join("usr/bin/again")).unwrap();
    symlink("/usr/bin", top.join("bin")).unwrap();
    let time = Mtime {
        seconds: 1_500_000_000,
        nanos: 0,
    };
    utimensat(
        CWD,
        top.join("usr/bin/tool"),
        &time.timestamps(),
        AtFlags::empty(),
    )
    .unwrap();
    fs::set_permissions(top.join("usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(top.join("closed"), fs::Permissions::from_mode(0o500)).unwrap();
    import(&top, directory).unwrap()
}

#[tokio::test]
async fn restores_a_root_exactly() {
    let directory = tempfile::tempdir().unwrap();
    let imported = example(directory.path());
    let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    imported.upload(&*store).await.unwrap();
    let checkouts = directory.path().join("checkouts");
    assert!(Checkout::find(&checkouts, imported.root.digest).is_none());
    Checkout::fetch(&checkouts, imported.root.digest, store)
        .await
        .unwrap();
    let checkout = Checkout::find(&checkouts, imported.root.digest).unwrap();

    let again = import(&checkout.path(), directory.path()).unwrap();
    assert_eq!(again.root.digest, imported.root.digest);
    let status = |name| fs::metadata(checkout.path().join(name)).unwrap();
    let (tool, again) = (status("usr/bin/tool"), status("usr/bin/again"));
    assert_eq!((tool.ino(), tool.mode() & 0o7777), (again.ino(), 0o755));
    assert_eq!(status("closed").mode() & 0o7777, 0o700);

    // Another store can get all of it from here.
    let other: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    upload_missing(&*other, checkout.blobs().unwrap()).await.unwrap();
    let elsewhere = directory.path().join("elsewhere");
    Checkout::fetch(&elsewhere, imported.root.digest, other)
        .await
        .unwrap();

    Checkout::remove(&checkouts, imported.root.digest).unwrap();
    assert_eq!(fs::read_dir(&checkouts).unwrap().count(), 0);
}

#[tokio::test]
async fn leaves_nothing_if_the_store_lacks_a_file() {
    let directory = tempfile::tempdir().unwrap();
    let imported = example(directory.path());
    let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    for (digest, bytes) in &imported.root.directories {
        let blob = bitzel_cas::blob_store::one_chunk(bytes.clone());
        store.write(*digest, blob).await.unwrap();
    }
    let checkouts = directory.path().join("checkouts");
    let error = Checkout::fetch(&checkouts, imported.root.digest, store)
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::Store(bitzel_cas::Error::NotFound(_))),
        "{error}"
    );
    assert_eq!(fs::read_dir(&checkouts).unwrap().count(), 0);
}

/// Tree whose Directories have their child twice, and the last one these files.
async fn unfolding(store: &dyn BlobStore, levels: usize, files: Vec<FileNode>) -> Digest {
    let mut directory = Directory {
        files,
        ..Directory::default()
    };
    for level in 0..=levels {
        let (digest, bytes) = Digest::of_message(ROOT_DIGEST_FUNCTION, &directory);
        let blob = bitzel_cas::blob_store::one_chunk(bytes.into());
        store.write(digest, blob).await.unwrap();
        if level == levels {
            return digest;
        }
        let child = |name: &str| DirectoryNode {
            name: name.to_owned(),
            digest: Some(digest.into()),
        };
        directory = Directory {
            directories: vec![child("a"), child("b")],
            ..Directory::default()
        };
    }
    unreachable!("the last level returns")
}

#[tokio::test]
async fn refuses_roots_that_unfold_beyond_the_limits() {
    let directory = tempfile::tempdir().unwrap();
    let checkouts = directory.path().join("checkouts");
    let file = |name: String, size| FileNode {
        name,
        digest: Some(Digest::new(ROOT_DIGEST_FUNCTION, [7; 32], size).into()),
        ..FileNode::default()
    };
    let many = (0..1000).map(|index| file(format!("f{index:04}"), 1)).collect();
    let large = vec![file("file".to_owned(), 1 << 30)];
    for (levels, files, unit) in [(13, many, "entries"), (7, large, "bytes")] {
        let store = Arc::new(MemoryBlobStore::default());
        let digest = unfolding(&*store, levels, files).await;
        let error = Checkout::fetch(&checkouts, digest, store).await.unwrap_err();
        assert!(
            matches!(&error, Error::TooLarge(limit) if limit.ends_with(unit)),
            "{error:?}"
        );
        assert!(!checkouts.exists(), "nothing was written");
    }
}
