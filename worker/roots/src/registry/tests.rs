#![allow(clippy::unwrap_used, reason = "tests may panic")]

use super::*;
use crate::root_digest::ROOT_DIGEST_FUNCTION;

#[test]
fn finds_roots_by_name_and_digest() {
    let directory = tempfile::tempdir().unwrap();
    let registry = RootRegistry::new(directory.path().join("roots"));
    let [one, two] = ["one", "two"].map(|text| ROOT_DIGEST_FUNCTION.digest(text.as_bytes()));
    assert!(registry.list().unwrap().is_empty());
    assert!(matches!(registry.resolve("debian"), Err(Error::Unknown(_))));
    let record = RootRecord {
        source: "here".to_owned(),
        files: 3,
        ..RootRecord::default()
    };
    registry.record(one, &record).unwrap();
    let name: RootName = "debian".parse().unwrap();
    registry.name(&name, one).unwrap();
    assert_eq!(registry.resolve("debian").unwrap(), one);
    assert_eq!(registry.resolve(&two.to_string()).unwrap(), two);
    assert_eq!(registry.find(one).unwrap(), Some(record));

    registry.record(two, &RootRecord::default()).unwrap();
    registry.name(&name, two).unwrap();
    assert_eq!(registry.resolve("debian").unwrap(), two, "the name moves");
    assert_eq!(registry.list().unwrap()[&one].names, []);

    registry.remove(two).unwrap();
    assert!(matches!(registry.resolve("debian"), Err(Error::Unknown(_))));
    assert!(matches!(registry.remove(two), Err(Error::Unknown(_))));
    assert_eq!(registry.list().unwrap().len(), 1);
}

#[test]
fn names_cannot_lead_to_other_files() {
    for wrong in ["", "..", "../x", "a/b", ".hidden", "-x", "ü", &"x".repeat(101)] {
        assert!(wrong.parse::<RootName>().is_err(), "{wrong}");
    }
}
