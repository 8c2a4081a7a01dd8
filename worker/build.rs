//! Builds the sandbox launcher, which `src/sandbox/launcher_program.rs` embeds.
//!
//! Cargo has no stable way to say that a library contains the program of another package, so this starts a cargo of its
//! own: for the same target, from the same `Cargo.lock`, without network, in a target directory of its own, because the
//! outer cargo holds the lock of the usual one. Whatever the launcher needs is there already: this package depends on
//! the launcher's library, so the outer cargo has fetched it. See `docs/decisions/0033-the-launcher-is-a-program.md`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "bitzel-launcher";
/// Profile in the workspace's `Cargo.toml`, whatever the outer profile is: each Action costs a fork of the launcher.
const PROFILE: &str = "launcher";

fn main() {
    for path in [
        "build.rs",
        "launcher/src",
        "launcher/Cargo.toml",
        "../Cargo.toml",
        "../Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let target = variable("TARGET");
    let target_directory = PathBuf::from(variable("OUT_DIR")).join("launcher");
    let status = Command::new(variable("CARGO"))
        .args(["build", "--locked", "--offline", "--quiet"])
        .args(["--package", PACKAGE, "--bin", PACKAGE, "--profile", PROFILE])
        .args(["--target", &target])
        .arg("--target-dir")
        .arg(&target_directory)
        .current_dir(variable("CARGO_MANIFEST_DIR"))
        // Clippy and coverage tools wrap the compiler of workspace members; the launcher is linted as a member.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .unwrap_or_else(|error| panic!("cargo does not start to build {PACKAGE}: {error}"));
    assert!(status.success(), "cargo cannot build {PACKAGE}: {status}");
    let program = target_directory.join(target).join(PROFILE).join(PACKAGE);
    export(&program);
}

/// Tells the library the launcher's path.
fn export(program: &Path) {
    println!("cargo::rustc-env=BITZEL_LAUNCHER={}", program.display());
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo sets {name}: {error}"))
}
