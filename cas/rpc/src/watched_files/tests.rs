use super::*;

#[tokio::test(start_paused = true)]
async fn a_change_is_reported_once_after_the_interval() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    std::fs::write(&path, "old").unwrap();
    let watched = WatchedFiles::new(vec![path.clone(), directory.path().join("absent")]);
    std::fs::write(&path, "newer").unwrap();
    assert!(!watched.changed(), "the files were checked a moment ago");
    tokio::time::advance(WatchedFiles::CHECK_INTERVAL).await;
    assert!(watched.changed());
    tokio::time::advance(WatchedFiles::CHECK_INTERVAL).await;
    assert!(!watched.changed());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_appears_has_changed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let watched = WatchedFiles::new(vec![path.clone()]);
    std::fs::write(&path, "new").unwrap();
    tokio::time::advance(WatchedFiles::CHECK_INTERVAL).await;
    assert!(watched.changed());
}
