use std::fs::{self, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::*;

#[test]
fn a_separate_scratch_space_is_cleaned_and_locked() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, scratch) = (directory.path().join("cache"), directory.path().join("scratch"));
    let directories = WorkerDirectories::open(&cache, Some(&scratch)).unwrap();
    let action = ActionDirectory::create(&directories).unwrap();
    let upper = scratch.canonicalize().unwrap().join(CHANGES).join("0/upper");
    assert_eq!(action.path("upper"), upper);
    assert_eq!(action.relative("upper"), "changes/0/upper");
    assert!(upper.is_dir());
    assert!(action.path("lower").starts_with(cache.canonicalize().unwrap()));
    let other = directory.path().join("other");
    assert!(matches!(
        WorkerDirectories::open(&other, Some(&scratch)),
        Err(Error::DirectoryInUse(_))
    ));
    action.remove().unwrap();
    drop(directories);
    // The state after a kill.
    fs::write(scratch.join(CHANGES).join("0/stdout"), "left over").unwrap();
    fs::write(scratch.join("not ours"), "").unwrap();
    let _directories = WorkerDirectories::open(&cache, Some(&scratch)).unwrap();
    assert_eq!(fs::read_dir(scratch.join(CHANGES)).unwrap().count(), 0);
    assert!(scratch.join("not ours").exists());
}

#[test]
fn refuses_a_scratch_directory_that_others_can_write_to() {
    let directory = tempfile::tempdir().unwrap();
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
    let error = WorkerDirectories::open(&directory.path().join("root"), Some(&shared)).unwrap_err();
    assert!(matches!(error, Error::SharedDirectory(_)), "{error}");
    assert_eq!(fs::metadata(&shared).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 0);
}

/// Duplicates of this process's descriptors of a file, as a child has them between fork and exec.
fn duplicates(file: &Path) -> Vec<OwnedFd> {
    let process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let entries: Vec<_> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let of_file = entries
        .iter()
        .filter(|entry| fs::read_link(entry.path()).is_ok_and(|target| target == file));
    let numbers: Vec<i32> = of_file
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let duplicate = |number: &i32| pidfd_getfd(&process, *number, PidfdGetfdFlags::empty()).unwrap();
    numbers.iter().map(duplicate).collect()
}

#[test]
fn a_duplicate_of_the_descriptor_does_not_keep_the_lock() {
    let directory = tempfile::tempdir().unwrap();
    let (cache, scratch) = (directory.path().join("cache"), directory.path().join("scratch"));
    let directories = WorkerDirectories::open(&cache, Some(&scratch)).unwrap();
    let locks = [&cache, &scratch].map(|owned| owned.canonicalize().unwrap().join("lock"));
    let duplicates = locks.map(|lock| duplicates(&lock));
    assert_eq!(duplicates.each_ref().map(Vec::len), [1, 1]);
    drop(directories);
    WorkerDirectories::open(&cache, Some(&scratch)).unwrap();
}

#[test]
fn the_file_cache_may_take_half_of_the_free_space() {
    let directory = tempfile::tempdir().unwrap();
    let directories = WorkerDirectories::open(&directory.path().join("cache"), None).unwrap();
    // Others use the disk meanwhile, so the numbers are rough.
    let all = directories.space_for_changes(0).unwrap();
    let half = directories.space_for_changes(u64::MAX).unwrap();
    assert!(half < all / 4 * 3 && half > all / 4, "{half} of {all}");
    let scratch = directory.path().join("scratch");
    let separate = WorkerDirectories::open(&directory.path().join("other"), Some(&scratch)).unwrap();
    let separate = separate.space_for_changes(u64::MAX).unwrap();
    assert!(separate > all / 4 * 3, "the cache is elsewhere");
}
