//! Damage of every kind to every file of a store that died: no wrong byte, and no more lost than the damaged bytes knew.

use std::collections::BTreeMap;

use super::*;

/// Damage to one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    Remove,
    Empty,
    CutHalf,
    CutByte,
    CutRecord,
    FlipFirst,
    FlipMiddle,
    FlipLast,
    Zero,
    ZeroFirstBlock,
    AppendGarbage,
    AppendZeros,
    Rename,
}

const ALL_DAMAGE: [Damage; 13] = [
    Damage::Remove,
    Damage::Empty,
    Damage::CutHalf,
    Damage::CutByte,
    Damage::CutRecord,
    Damage::FlipFirst,
    Damage::FlipMiddle,
    Damage::FlipLast,
    Damage::Zero,
    Damage::ZeroFirstBlock,
    Damage::AppendGarbage,
    Damage::AppendZeros,
    Damage::Rename,
];

impl Damage {
    fn apply(self, path: &Path) {
        let mut bytes = fs::read(path).unwrap();
        let length = bytes.len();
        match self {
            Self::Remove => return fs::remove_file(path).unwrap(),
            Self::Rename => return fs::rename(path, path.with_extension("gone")).unwrap(),
            Self::Empty => bytes.clear(),
            Self::CutHalf => bytes.truncate(length / 2),
            Self::CutByte => bytes.truncate(length - 1),
            Self::CutRecord => bytes.truncate(length - 64),
            Self::FlipFirst => bytes[0] ^= 1,
            Self::FlipMiddle => bytes[length / 2] ^= 1,
            Self::FlipLast => bytes[length - 1] ^= 1,
            Self::Zero => bytes.fill(0),
            Self::ZeroFirstBlock => bytes[..length.min(4096)].fill(0),
            Self::AppendGarbage => bytes.extend(noise(9, 100)),
            Self::AppendZeros => bytes.extend([0; 4096]),
        }
        // Files of blobs are read-only, and a rewrite in place would reach the copies of other cases.
        fs::remove_file(path).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// True for damage to a journal that looks like the death of the process before its last writes.
    fn looks_like_death(self, path: &Path) -> bool {
        let is_journal = path.to_string_lossy().contains("journal-");
        is_journal && matches!(self, Self::CutHalf | Self::CutByte | Self::CutRecord)
    }
}

/// Sizes of the blobs: small ones with room for a trailer and without, and large ones.
const SIZES: [usize; 9] = [1, 700, 4000, 4096, 5000, 12_000, 60_000, 1_100_000, 1_200_000];

/// A store that died after a checkpoint and more writes, or was closed.
async fn filled(root: &Path, closed: bool) -> BTreeMap<Digest, Vec<u8>> {
    let store = DiskBlobStore::open(root, ROOMY).await.unwrap();
    let mut blobs = BTreeMap::new();
    for round in 0..2 {
        for (index, size) in SIZES.into_iter().enumerate() {
            let blob = noise(100 * round + index as u64, size);
            blobs.insert(add(&store, &blob).await, blob);
        }
        if round == 0 {
            store.checkpoint().await.unwrap();
        }
    }
    if closed {
        store.close().await.unwrap();
    }
    blobs
}

/// Blobs that the store has, each with the right content.
async fn present(store: &DiskBlobStore, blobs: &BTreeMap<Digest, Vec<u8>>, case: &str) -> Vec<Digest> {
    let mut present = Vec::new();
    for (digest, blob) in blobs {
        match read_whole(store, *digest).await {
            Ok(content) => {
                assert!(content == *blob, "wrong bytes of {digest}: {case}");
                present.push(*digest);
            }
            Err(Error::NotFound(_)) => {}
            Err(error) => panic!("{case}: {error}"),
        }
    }
    present
}

/// True if the last block of the blob has room for a trailer.
fn has_trailer(digest: Digest) -> bool {
    (1..=4096 - 64).contains(&(digest.size_bytes() % 4096))
}

#[tokio::test]
async fn f14_damage_to_any_file_costs_only_what_it_knew() {
    let mut cases = 0;
    for closed in [false, true] {
        let original = TempDir::new().unwrap();
        let blobs = filled(original.path(), closed).await;
        let files = [
            files_in(original.path().join("index")),
            files_in(original.path().join("segments")),
        ];
        let blob_file = blob_files(&original).remove(0).0;
        for victim in files.into_iter().flatten().chain([blob_file]) {
            let victim = victim.strip_prefix(original.path()).unwrap();
            let is_index = victim.starts_with("index");
            for damage in ALL_DAMAGE {
                let root = TempDir::new().unwrap();
                let copied = std::process::Command::new("cp")
                    .args(["--archive", "--no-target-directory"])
                    .args([original.path(), root.path()])
                    .status();
                assert!(copied.unwrap().success());
                if fs::metadata(root.path().join(victim)).unwrap().len() == 0 {
                    // The mark of an open directory has no content to damage.
                    continue;
                }
                damage.apply(&root.path().join(victim));
                cases += 1;
                let case = format!("{damage:?} of {}, closed: {closed}", victim.display());

                let store = open(&root).await;
                let survivors = present(&store, &blobs, &case).await;
                let gone: Vec<Digest> = blobs
                    .keys()
                    .filter(|blob| !survivors.contains(blob))
                    .copied()
                    .collect();
                if is_index && !damage.looks_like_death(victim) {
                    let hopeless =
                        |digest: &Digest| digest.size_bytes() < SMALL_BLOB_BYTES && !has_trailer(*digest);
                    assert!(gone.iter().all(hopeless), "{gone:?} are lost: {case}");
                    assert!(
                        store.losses().is_some() || gone.is_empty(),
                        "a silent loss: {case}"
                    );
                }
                drop(store);

                let store = open(&root).await;
                assert_eq!(
                    present(&store, &blobs, &case).await,
                    survivors,
                    "after another start: {case}"
                );
                assert_eq!(store.losses(), None, "{case}");
            }
        }
    }
    assert!(cases > 60, "{cases}");
}

#[tokio::test]
async fn loss_of_the_whole_index_is_told_with_its_count() {
    let root = TempDir::new().unwrap();
    let blobs = filled(root.path(), false).await;
    fs::remove_dir_all(root.path().join("index")).unwrap();
    let store = open(&root).await;
    let survivors = present(&store, &blobs, "no index").await;
    let losses = store.losses().expect("a loss").clone();
    assert_eq!(losses.found_again, survivors.len() as u64);
    assert_eq!(
        survivors.len(),
        blobs.len() - 2,
        "the blobs of 4096 bytes are lost"
    );
    let text = losses.to_string();
    assert!(text.contains("there is no snapshot of the index"), "{text}");
}
