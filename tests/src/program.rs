//! Where the program under test and what the set-up made are found.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The bitzel program: the one that `BITZEL_BIN` names, else the workspace's own, built now if it is out of date.
///
/// Cargo builds a package's programs only for that package's own tests, so the tests ask for it themselves;
/// otherwise they would run whatever an earlier build left.
pub fn bitzel_program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| std::env::var_os("BITZEL_BIN").map_or_else(build_program, PathBuf::from))
}

fn build_program() -> PathBuf {
    let status = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "bitzel", "--bin", "bitzel"])
        // Benchmarks are optimised, and so is what they measure.
        .args((!cfg!(debug_assertions)).then_some("--release"))
        .current_dir(project_directory())
        .status()
        .expect("cargo starts");
    assert!(status.success(), "cargo build --package bitzel failed");
    // target/debug/deps/end_to_end-… is beside target/debug/bitzel, whatever the target directory is.
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

/// BitBake as `make setup` installs it.
pub fn bitbake_directory() -> PathBuf {
    set_up("bitbake")
}

/// The upstream sources as `make setup` downloads them, for `DL_DIR`.
pub fn downloads_directory() -> PathBuf {
    set_up("downloads")
}

/// The demo layer as it is committed. Tests change copies of it only.
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
