//! Any archive is refused, or it gives a root that can be checked out.

use std::sync::Arc;

use bitzel_cas::MemoryBlobStore;
use proptest::prelude::*;

use super::*;
use crate::Checkout;

/// Paths of these names, so few that they meet each other often.
fn path(names: &[&'static str]) -> impl Strategy<Value = String> + use<> {
    let name = prop::sample::select(names.to_vec());
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

/// An entry. Only links have `..`, because an archive with another entry of this kind is refused as a whole.
fn entry() -> impl Strategy<Value = (EntryType, String, String)> {
    let kind = prop::sample::select(vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Fifo,
    ]);
    let name = path(&["a", "b", "c", ".", "", "etc", ".wh.a"]);
    (kind, name, path(&["a", "b", "c", "..", "", "etc"]))
}

/// Imports an archive, stores it, checks it out, and imports the checkout.
async fn round_trip(imported: &ImportedRoot) -> Digest {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    imported.upload(&*store).await.unwrap();
    let checkout = Checkout::fetch(&directory.path().join("checkouts"), imported.root.digest, store)
        .await
        .unwrap();
    let planted = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(planted, 1, "nothing is written beside the checkouts");
    import(&checkout.path(), directory.path()).unwrap().root.digest
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn is_refused_or_can_be_checked_out(entries in prop::collection::vec(entry(), 1..12)) {
        let mut tar = Tar::default();
        for (kind, name, link) in &entries {
            let content: &[u8] = if *kind == EntryType::Regular { name.as_bytes() } else { b"" };
            tar = tar.entry(*kind, name.as_bytes(), link.as_bytes(), content);
        }
        if let Ok(imported) = tar.import() {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert_eq!(runtime.block_on(round_trip(&imported)), imported.root.digest);
        }
    }
}
