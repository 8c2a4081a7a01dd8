use super::*;

const LIMITS: Limits = Limits {
    unused: Duration::from_secs(1000),
    bytes: 100,
    in_use: Duration::from_secs(10),
};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn entry(name: &str, age: u64, size: u64) -> Entry {
    Entry {
        used: now() - Duration::from_secs(age),
        size,
        path: name.into(),
    }
}

fn removed(entries: Vec<Entry>) -> Vec<String> {
    surplus(entries, LIMITS, now())
        .iter()
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn what_is_used_and_fits_stays() {
    assert!(removed(vec![entry("a", 1000, 50), entry("b", 20, 50)]).is_empty());
}

#[test]
fn what_was_not_used_for_long_goes() {
    assert_eq!(removed(vec![entry("a", 1001, 1), entry("b", 20, 1)]), ["a"]);
}

#[test]
fn beyond_the_size_the_least_recently_used_goes_first() {
    let entries = vec![
        entry("old", 300, 60),
        entry("new", 100, 60),
        entry("oldest", 900, 50),
    ];
    assert_eq!(removed(entries), ["old", "oldest"]);
}

#[test]
fn what_a_running_build_may_read_stays_at_any_size() {
    let entries = vec![entry("a", 5, 500), entry("b", 10, 500), entry("c", 11, 1)];
    assert_eq!(removed(entries), ["c"]);
}

#[test]
fn a_file_from_the_future_counts_as_used_now() {
    let mut future = entry("a", 0, 500);
    future.used = now() + Duration::from_mins(1);
    assert!(removed(vec![future]).is_empty());
}

#[test]
fn marking_as_used_saves_a_file_on_disk() {
    let directory = tempfile::tempdir().unwrap();
    let start = SystemTime::now();
    let old = start - Duration::from_secs(5000);
    for name in ["kept", "dropped"] {
        let file = fs::File::create(directory.path().join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
    assert!(mark_used(&directory.path().join("kept")));
    assert!(!mark_used(&directory.path().join("missing")));
    prune(directory.path(), LIMITS, start).unwrap();
    assert!(directory.path().join("kept").exists());
    assert!(!directory.path().join("dropped").exists());
}
