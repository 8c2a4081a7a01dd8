use std::os::fd::OwnedFd;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

use super::*;

#[test]
fn changes_elsewhere_are_cleaned_and_locked_like_the_rest() {
    let directory = tempfile::tempdir().unwrap();
    let (root, elsewhere) = (directory.path().join("root"), directory.path().join("elsewhere"));
    let scratch = Scratch::open(&root, Some(&elsewhere)).unwrap();
    let action = scratch.action_directory().unwrap();
    let upper = elsewhere.canonicalize().unwrap().join(CHANGES).join("0/upper");
    assert_eq!(action.path("upper"), upper);
    assert_eq!(action.relative("upper"), "changes/0/upper");
    assert!(upper.is_dir());
    assert!(action.path("lower").starts_with(root.canonicalize().unwrap()));
    let other = directory.path().join("other");
    assert!(matches!(
        Scratch::open(&other, Some(&elsewhere)),
        Err(Error::CacheInUse(_))
    ));
    action.remove().unwrap();
    drop(scratch);
    // As after a kill.
    fs::write(elsewhere.join(CHANGES).join("0/stdout"), "left over").unwrap();
    fs::write(elsewhere.join("not ours"), "").unwrap();
    let _scratch = Scratch::open(&root, Some(&elsewhere)).unwrap();
    assert_eq!(fs::read_dir(elsewhere.join(CHANGES)).unwrap().count(), 0);
    assert!(elsewhere.join("not ours").exists());
}

#[test]
fn a_directory_that_others_can_write_to_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let shared = directory.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::set_permissions(&shared, Permissions::from_mode(0o1777)).unwrap();
    let error = Scratch::open(&directory.path().join("root"), Some(&shared)).unwrap_err();
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
    let (root, elsewhere) = (directory.path().join("root"), directory.path().join("elsewhere"));
    let scratch = Scratch::open(&root, Some(&elsewhere)).unwrap();
    let locks = [&root, &elsewhere].map(|owned| owned.canonicalize().unwrap().join("lock"));
    let duplicates = locks.map(|lock| duplicates(&lock));
    assert_eq!(duplicates.each_ref().map(Vec::len), [1, 1]);
    drop(scratch);
    Scratch::open(&root, Some(&elsewhere)).unwrap();
}
