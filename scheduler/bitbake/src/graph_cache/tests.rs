use std::collections::HashMap;

use bitzel_proto::graph::{Recipe, Snapshot};

use super::*;

fn graph(snapshot: &str) -> TaskGraph {
    TaskGraph {
        format_version: GRAPH_FORMAT_VERSION,
        recipes: vec![Recipe {
            snapshot: Some(Snapshot {
                sha256: snapshot.to_owned(),
                ..Snapshot::default()
            }),
            ..Recipe::default()
        }],
        ..TaskGraph::default()
    }
}

#[test]
fn a_stored_graph_loads_while_its_snapshots_are_there() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDirectory::new(directory.path().to_owned());
    let cache = GraphCache::new(directory.path());
    cache
        .store("k", &graph("s"), &vec![("a.pyc".to_owned(), "s".to_owned())])
        .unwrap();
    assert!(cache.load("k", &snapshots).is_none());
    fs::write(snapshots.path("s"), "").unwrap();
    assert_eq!(
        cache.load("k", &snapshots),
        Some((graph("s"), vec![("a.pyc".to_owned(), "s".to_owned())]))
    );
    assert!(cache.load("other", &snapshots).is_none());
}

#[test]
fn a_stored_graph_needs_its_compiled_python() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDirectory::new(directory.path().to_owned());
    let cache = GraphCache::new(directory.path());
    fs::write(snapshots.path("s"), "").unwrap();
    let bytecode = vec![("a.pyc".to_owned(), "compiled".to_owned())];
    cache.store("k", &graph("s"), &bytecode).unwrap();
    assert!(cache.load("k", &snapshots).is_none());
    fs::write(snapshots.path("compiled"), "").unwrap();
    assert_eq!(cache.load("k", &snapshots), Some((graph("s"), bytecode)));
}

#[test]
fn a_damaged_graph_is_not_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDirectory::new(directory.path().to_owned());
    let cache = GraphCache::new(directory.path());
    cache
        .store("k", &graph("s"), &vec![("a.pyc".to_owned(), "s".to_owned())])
        .unwrap();
    fs::write(snapshots.path("s"), "").unwrap();
    let path = cache.path("k");
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&path, bytes).unwrap();
    assert!(cache.load("k", &snapshots).is_none());
}

#[test]
fn every_input_of_a_graph_changes_the_key() {
    let config = FrontEndConfig::new("/build".into(), "/cache".into());
    let request = ExportRequest {
        targets: vec!["one".to_owned()],
        ..ExportRequest::default()
    };
    let metadata = |contents: &[u8]| LocalTree {
        root: DigestFunction::Sha256.digest(contents),
        directories: HashMap::new(),
        files: HashMap::new(),
    };
    let mut other_environment = config.clone();
    other_environment
        .environment
        .insert("BB_ENV_PASSTHROUGH_ADDITIONS".to_owned(), "MACHINE".to_owned());
    other_environment
        .environment
        .insert("MACHINE".to_owned(), "qemuarm".to_owned());
    let mut other_epoch = config.clone();
    other_epoch.source_date_epoch += 1;
    let other_task = ExportRequest {
        task: Some("fetch".to_owned()),
        ..request.clone()
    };
    let keys = [
        key(&config, &request, &metadata(b"a"), "code"),
        key(&config, &request, &metadata(b"b"), "code"),
        key(&config, &request, &metadata(b"a"), "other code"),
        key(&config, &other_task, &metadata(b"a"), "code"),
        key(&other_environment, &request, &metadata(b"a"), "code"),
        key(&other_epoch, &request, &metadata(b"a"), "code"),
    ];
    let distinct: std::collections::HashSet<_> = keys.iter().collect();
    assert_eq!(distinct.len(), keys.len());
}
