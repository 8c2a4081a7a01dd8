//! Builds the sandbox launcher, which `src/sandbox/launcher_program.rs` embeds.
//!
//! Cargo has no stable way to say that a library contains the program of another package, so this starts a second cargo:
//! for the same target, from the same `Cargo.lock`, without network, and in a target directory of its own, because the
//! outer cargo holds the lock of the usual one. The outer cargo has fetched everything that the launcher needs, because
//! this package depends on the launcher's library. See `docs/decisions/0033-the-launcher-is-a-program.md`.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const PACKAGE: &str = "bitzel-launcher";
/// Profile in the workspace's `Cargo.toml`, whatever the outer profile is: each Action costs a fork of the launcher.
const PROFILE: &str = "launcher";
/// Links the C library into the program: a process without shared libraries is cheaper to fork.
const STATIC: &str = "-Ctarget-feature=+crt-static";

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
    if !build(&target, &target_directory, Some(STATIC)) {
        // Some distributions have the static C library in a package of its own, such as `glibc-static`.
        assert!(
            build(&target, &target_directory, None),
            "cargo cannot build {PACKAGE}"
        );
    }
    let program = target_directory.join(target).join(PROFILE).join(PACKAGE);
    println!("cargo::rustc-env=BITZEL_LAUNCHER={}", program.display());
}

/// Builds the launcher, with a further flag for rustc. False if that fails; cargo has said why.
fn build(target: &str, target_directory: &Path, flag: Option<&str>) -> bool {
    // Flags of the outer cargo, separated as it separates them.
    let outer = env::var("CARGO_ENCODED_RUSTFLAGS").ok();
    let flags: Vec<&str> = outer
        .as_deref()
        // The coverage of fuzzing calls a runtime that only the fuzzer has.
        .filter(|flags| !flags.is_empty() && !flags.contains("sancov"))
        .into_iter()
        .chain(flag)
        .collect();
    Command::new(variable("CARGO"))
        .args(["build", "--locked", "--offline", "--quiet"])
        .args(["--package", PACKAGE, "--bin", PACKAGE, "--profile", PROFILE])
        .args(["--target", target])
        .arg("--target-dir")
        .arg(target_directory)
        .current_dir(variable("CARGO_MANIFEST_DIR"))
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        // Clippy and coverage tools wrap the compiler of workspace members; the launcher is linted as a member.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .status()
        .unwrap_or_else(|error| panic!("cargo does not start to build {PACKAGE}: {error}"))
        .success()
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|error| panic!("cargo sets {name}: {error}"))
}
