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
