use std::fs::{File, FileTimes};

use super::*;

fn write_old(path: &Path, contents: &str) {
    fs::write(path, contents).unwrap();
}

fn digest(cache: &mut StatCache, path: &Path) -> Digest {
    let metadata = fs::metadata(path).unwrap();
    cache.digest(path, &metadata, DigestFunction::Sha256).unwrap()
}

/// Makes all entries look as if the files had been hashed long after their last change.
fn age(cache: &mut StatCache) {
    for entry in cache.entries.values_mut() {
        entry.hashed_at += 10_000_000_000;
    }
}

fn reload(cache: StatCache, file: &Path) -> StatCache {
    cache.save(file).unwrap();
    StatCache::load(file)
}

#[test]
fn an_unchanged_file_is_not_read_again() {
    let directory = tempfile::tempdir().unwrap();
    let (file, saved) = (
        directory.path().join("recipe.bb"),
        directory.path().join("stat-cache"),
    );
    write_old(&file, "one");
    let mut cache = StatCache::default();
    let first = digest(&mut cache, &file);
    let mut cache = reload(cache, &saved);
    age(&mut cache);
    // A wrong digest in the cache shows that the cache was asked and not the file.
    let marked = DigestFunction::Sha256.digest(b"two");
    for entry in cache.entries.values_mut() {
        entry.hash = marked.hash_hex();
    }
    assert_eq!(digest(&mut cache, &file), marked);
    assert_ne!(first, marked);
}

#[test]
fn a_changed_file_is_hashed_again() {
    let directory = tempfile::tempdir().unwrap();
    let (file, saved) = (
        directory.path().join("recipe.bb"),
        directory.path().join("stat-cache"),
    );
    write_old(&file, "one");
    let mut cache = StatCache::default();
    digest(&mut cache, &file);
    let mut cache = reload(cache, &saved);
    age(&mut cache);
    let modified = fs::metadata(&file).unwrap().modified().unwrap();
    write_old(&file, "two");
    // Same size, same inode, same modification time: the change time gives it away.
    File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_times(FileTimes::new().set_modified(modified))
        .unwrap();
    for entry in cache.entries.values_mut() {
        // Against a coarse clock in the test's file system.
        entry.changed -= 20_000_000;
    }
    assert_eq!(digest(&mut cache, &file), DigestFunction::Sha256.digest(b"two"));
}

#[test]
fn an_entry_that_is_too_fresh_is_not_trusted() {
    let directory = tempfile::tempdir().unwrap();
    let (file, saved) = (
        directory.path().join("recipe.bb"),
        directory.path().join("stat-cache"),
    );
    write_old(&file, "one");
    let mut cache = StatCache::default();
    digest(&mut cache, &file);
    let mut cache = reload(cache, &saved);
    for entry in cache.entries.values_mut() {
        entry.hash = DigestFunction::Sha256.digest(b"two").hash_hex();
    }
    assert_eq!(digest(&mut cache, &file), DigestFunction::Sha256.digest(b"one"));
}

#[test]
fn a_damaged_cache_is_an_empty_one() {
    let directory = tempfile::tempdir().unwrap();
    let saved = directory.path().join("stat-cache");
    fs::write(&saved, "not json").unwrap();
    assert!(StatCache::load(&saved).entries.is_empty());
}
