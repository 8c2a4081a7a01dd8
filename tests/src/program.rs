//! Paths of the program under test and of the files from `make setup`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Path of the bitzel program: from `BITZEL_BIN`, else the workspace's own, which is built if it is out of date.
///
/// Cargo builds the programs of a package only for that package's own tests, so these tests build it themselves;
/// otherwise they would run the program of an earlier build.
pub fn bitzel_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var_os("BITZEL_BIN").map_or_else(build_program, PathBuf::from))
}

fn build_program() -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "bitzel", "--bin", "bitzel"])
        // Benchmarks are optimised, so the program has to be too.
        .args((!cfg!(debug_assertions)).then_some("--release"))
        .current_dir(project_directory())
        .status()
        .expect("cargo starts");
    assert!(status.success(), "cargo build --package bitzel failed");
    // From target/debug/deps/end_to_end-… to target/debug/bitzel, for any target directory.
    let test_program = std::env::current_exe().expect("this test program has a path");
    let program = test_program
        .ancestors()
        .nth(2)
        .expect("test programs are in a directory of their own")
        .join("bitzel");
    assert!(
        program.is_file(),
        "no program at {}: set BITZEL_BIN to its path",
        program.display()
    );
    program
}

/// BitBake from `make setup`.
pub fn bitbake_directory() -> PathBuf {
    set_up("bitbake")
}

/// Upstream sources from `make setup`, for `DL_DIR`.
pub fn downloads_directory() -> PathBuf {
    set_up("downloads")
}

/// The committed demo layer. Tests change copies of it only.
pub(crate) fn layer_directory() -> PathBuf {
    project_directory().join("tests/layer")
}

fn set_up(name: &str) -> PathBuf {
    let path = project_directory().join(".demo").join(name);
    assert!(
        path.is_dir(),
        "{} is not there: run `make setup` first",
        path.display()
    );
    path
}

pub(crate) fn project_directory() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests
        .parent()
        .expect("the tests package is inside the workspace")
        .to_owned()
}
