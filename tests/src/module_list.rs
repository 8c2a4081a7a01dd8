//! Check for test files that no test program declares.

use std::collections::BTreeSet;
use std::path::Path;

/// Panics unless the modules that a test program declares are exactly the files of its directory.
///
/// Without it, the tests of a new file whose `mod` line was forgotten would never run. `program` is the path of the
/// test program inside this package (`tests/peers.rs`), whose modules are in the directory of the same name.
pub fn assert_declares_all_modules(program: &str) {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
    let source = std::fs::read_to_string(&program).expect("the source of the test program");
    let declared: BTreeSet<String> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("mod ")?.strip_suffix(';'))
        .map(str::to_owned)
        .collect();
    let directory = program.with_extension("");
    let files: BTreeSet<String> = std::fs::read_dir(&directory)
        .expect("the directory of the test program")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_dir() || path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            path.file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert_eq!(
        declared,
        files,
        "the `mod` lines of {} (left) are not the files of {} (right)",
        program.display(),
        directory.display()
    );
}
