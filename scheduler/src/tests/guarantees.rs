//! The list of guarantees and the tests that it names.

use std::fs;
use std::path::Path;

/// Texts of all Rust files below a directory.
fn sources(directory: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, texts);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            texts.push(fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_guarantee_names_a_test_that_exists() {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut texts = vec![];
    for directory in ["scheduler/src", "worker/src", "tests/tests/end_to_end"] {
        sources(&project.join(directory), &mut texts);
    }
    let guarantees = fs::read_to_string(project.join("docs/guarantees.md")).unwrap();
    let rows = guarantees.lines().filter(|line| line.starts_with("| "));
    let rows = rows.filter(|row| !row.starts_with("| guarantee "));
    let mut count = 0;
    for row in rows {
        let tests = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        let named: Vec<_> = tests.split('`').skip(1).step_by(2).collect();
        let names = named.into_iter().filter(|name| !name.contains(['.', '/']));
        for name in names {
            let definition = format!("fn {name}(");
            assert!(
                texts.iter().any(|text| text.contains(&definition)),
                "{row}: there is no test {name}"
            );
            count += 1;
        }
        assert!(
            tests.contains('`') || tests.starts_with("the same"),
            "{row}: no test"
        );
    }
    assert!(count >= 15, "{count} tests");
}
