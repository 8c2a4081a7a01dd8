use std::fs::File;
use std::io;

use super::*;

/// Opens the directory `fd` of this process for the entry that refers to `path`, and duplicates that descriptor, as a
/// child has it between `fork` and `exec`.
fn duplicate_of_descriptor(path: &Path) -> File {
    let path = path.canonicalize().unwrap();
    let descriptor = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap())
        .find(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == path))
        .expect("the lock is an open file");
    let descriptor: i32 = descriptor.file_name().to_str().unwrap().parse().unwrap();
    // A file that was opened again through /proc would be an open file of its own; `dup` shares the lock.
    let pid = rustix::process::getpid();
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    rustix::process::pidfd_getfd(process, descriptor, rustix::process::PidfdGetfdFlags::empty())
        .unwrap()
        .into()
}

#[tokio::test]
async fn a_duplicate_of_the_descriptor_does_not_keep_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let build_directory = Path::new("/build");
    let cache = ExportCache::open(directory.path(), build_directory, "root")
        .await
        .unwrap();
    let part = cache.directory().to_owned();
    let refused = DirectoryLock::acquire(&part).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    let _duplicate = duplicate_of_descriptor(&part.join("lock"));
    drop(cache);
    DirectoryLock::acquire(&part).unwrap();
}

#[tokio::test]
async fn each_root_has_its_own_part() {
    let directory = tempfile::tempdir().unwrap();
    let mut parts = std::collections::BTreeSet::new();
    for (build_directory, root) in [("/build", "a"), ("/build", "b"), ("/other", "a"), ("/build", "a")] {
        // The part that is opened twice is not locked any more.
        let cache = ExportCache::open(directory.path(), Path::new(build_directory), root).await;
        parts.insert(cache.unwrap().bitbake_cache());
    }
    assert_eq!(parts.len(), 3);
}

#[tokio::test]
async fn parts_that_nobody_uses_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let open = |root: &'static str| ExportCache::open(directory.path(), Path::new("/build"), root);
    let age = |part: &Path| {
        let lock = File::options().write(true).open(part.join("lock")).unwrap();
        lock.set_modified(SystemTime::now() - 2 * unused_parts::MAX_UNUSED_TIME)
            .unwrap();
    };
    let [old, used, fresh] = [open("old").await, open("used").await, open("fresh").await].map(Result::unwrap);
    let parts = [&old, &used, &fresh].map(|cache| cache.directory().to_owned());
    age(&parts[0]);
    age(&parts[1]);
    drop((old, fresh));
    drop(open("another").await.unwrap());
    assert!(!parts[0].exists());
    assert!(parts[1].is_dir(), "a build holds it");
    assert!(parts[2].is_dir());
    drop(used);
}
