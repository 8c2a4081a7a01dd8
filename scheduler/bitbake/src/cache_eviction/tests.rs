use super::*;

const LIMITS: EvictionLimits = EvictionLimits {
    max_unused_time: Duration::from_secs(1000),
    max_bytes: 100,
    max_files: 3,
    protected_time: Duration::from_secs(10),
};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn file(name: &str, age: u64, size_bytes: u64) -> CachedFile {
    CachedFile {
        last_use: now() - Duration::from_secs(age),
        size_bytes,
        path: name.into(),
    }
}

fn removed(files: Vec<CachedFile>) -> Vec<String> {
    surplus(files, LIMITS, now())
        .iter()
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn keeps_recently_used_files_that_fit() {
    assert!(removed(vec![file("a", 1000, 50), file("b", 20, 50)]).is_empty());
}

#[test]
fn removes_files_that_were_not_used_for_long() {
    assert_eq!(removed(vec![file("a", 1001, 1), file("b", 20, 1)]), ["a"]);
}

#[test]
fn removes_the_least_recently_used_files_first() {
    let files = vec![
        file("old", 300, 60),
        file("new", 100, 60),
        file("oldest", 900, 50),
    ];
    assert_eq!(removed(files), ["old", "oldest"]);
}

#[test]
fn keeps_files_that_a_running_build_may_read() {
    let files = vec![file("a", 5, 500), file("b", 10, 500), file("c", 11, 1)];
    assert_eq!(removed(files), ["c"]);
}

#[test]
fn removes_the_oldest_files_beyond_the_number() {
    let files = ["a", "b", "c", "d"].map(|name| file(name, u64::from(name.as_bytes()[0]), 1));
    assert_eq!(removed(files.to_vec()), ["d"]);
}

#[test]
fn a_file_from_the_future_counts_as_used_now() {
    let mut future = file("a", 0, 500);
    future.last_use = now() + Duration::from_mins(1);
    assert!(removed(vec![future]).is_empty());
}

#[test]
fn a_file_that_is_marked_as_used_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let start = SystemTime::now();
    let old = start - Duration::from_secs(5000);
    for name in ["kept", "dropped"] {
        let file = fs::File::create(directory.path().join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
    assert!(mark_used(&directory.path().join("kept")));
    assert!(!mark_used(&directory.path().join("missing")));
    evict(directory.path(), LIMITS, start).unwrap();
    assert!(directory.path().join("kept").exists());
    assert!(!directory.path().join("dropped").exists());
}
