//! Help, shell completions, manual pages and the configuration commands.

use std::fs;
use std::process::{Command, Output};

use tempfile::TempDir;

fn bitzel(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bitzel"))
        .args(arguments)
        // Nothing may be written to the cache directory.
        .env("BITZEL_CACHE_DIR", "/proc/nowhere")
        .output()
        .unwrap()
}

fn stdout(arguments: &[&str]) -> String {
    let output = bitzel(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prints_completions_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = stdout(&["completions", shell]);
        assert!(script.contains("remote-cache-read-only"), "{shell}: {script}");
    }
}

#[test]
fn writes_a_manual_page_for_every_command() {
    let directory = TempDir::new().unwrap();
    let pages = directory.path().join("share/man/man1");
    stdout(&["man", pages.to_str().unwrap()]);
    for page in [
        "bitzel.1",
        "bitzel-build.1",
        "bitzel-serve.1",
        "bitzel-store-gc.1",
    ] {
        let text = fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH OPTIONS"), "{page}: {text}");
    }
}

#[test]
fn prints_the_schema_of_the_configuration() {
    let schema: serde_json::Value = serde_json::from_str(&stdout(&["config", "schema"])).unwrap();
    assert_eq!(schema["title"], "bitzel configuration");
}

#[test]
fn shows_a_mistake_in_a_configuration_with_its_line() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("bitzel.toml");
    fs::write(&file, "[listen]\ngrpc = \"everywhere\"\n").unwrap();
    let output = bitzel(&["config", "check", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    for expected in [
        "bitzel.toml:2:8]",
        "grpc = \"everywhere\"",
        "help: listen.grpc is an address",
    ] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn refuses_a_log_filter_that_cannot_be_parsed() {
    let directory = TempDir::new().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bitzel"))
        .args(["--cache-dir", directory.path().to_str().unwrap()])
        .args(["--log", "bitzel=loud", "store", "stats"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--log bitzel=loud is not a filter"), "{text}");
    assert!(text.contains("hint: write a level"), "{text}");
}

#[test]
fn f11_a_worker_refuses_to_run_as_root() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: f11_a_worker_refuses_to_run_as_root: this user is not root");
        return;
    }
    let directory = TempDir::new().unwrap();
    // With root allowed, it gets as far as its admin port, on an address that no machine has.
    let worker = |arguments: &[&str], is_allowed: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_bitzel"))
            .args(["worker", "grpc://127.0.0.1:1", "--admin", "192.0.2.1:1"])
            .args(arguments)
            .env("BITZEL_CACHE_DIR", directory.path())
            .env("BITZEL_ALLOW_ROOT", is_allowed)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).unwrap()
    };
    let refusal = worker(&[], "false");
    for part in ["a worker should not run as root: ", "--allow-root"] {
        assert!(refusal.contains(part), "{refusal}");
    }
    for text in [worker(&["--allow-root"], "false"), worker(&[], "true")] {
        assert!(text.contains("192.0.2.1:1"), "{text}");
    }
}

#[test]
fn a_worker_checks_its_machine_without_a_server() {
    let directory = TempDir::new().unwrap();
    let check = |path: &str| {
        Command::new(env!("CARGO_BIN_EXE_bitzel"))
            .args(["--cache-dir", directory.path().to_str().unwrap()])
            // Tests may run as root.
            .args(["worker", "--check", "--allow-root"])
            .env("PATH", path)
            .output()
            .unwrap()
    };
    let output = check("/usr/bin:/bin");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("this machine can run sandboxes\n"), "{text}");
    assert!(text.contains("Actions with network=on"), "{text}");
    assert!(output.status.success());

    let output = check("/nowhere");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("this machine cannot run sandboxes"), "{text}");
    assert!(text.contains("bubblewrap is not installed"), "{text}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_machine_without_isolated_networks_says_so() {
    let directory = TempDir::new().unwrap();
    // Found before that of the machine, if it has one.
    let pasta = directory.path().join("pasta");
    std::fs::write(&pasta, "#!/bin/sh\necho no device >&2\nexit 1\n").unwrap();
    std::fs::set_permissions(&pasta, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let check = |network: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_bitzel"))
            .args(["--cache-dir", directory.path().to_str().unwrap()])
            .args(["worker", "--check", "--allow-root", "--action-network", network])
            .env("PATH", &path)
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let reason = "pasta ended with exit status: 1: no device";
    let (code, text) = check("auto");
    for part in [
        "use the network of this machine",
        "such as do_fetch",
        reason,
        "passt",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(code, Some(0));
    let (code, text) = check("host");
    assert!(text.contains("use the network of this machine"), "{text}");
    assert!(
        !text.contains("do_fetch"),
        "no warning about what was asked for: {text}"
    );
    assert_eq!(code, Some(0));
    let (code, text) = check("isolated");
    for part in [
        "the network of Actions cannot be isolated",
        reason,
        "passt",
        "--action-network=host",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(code, Some(1));
}

#[test]
fn refuses_options_of_a_worker_that_mean_nothing() {
    for (option, reason) in [
        ("--property=pool", "write a name, an equals sign and a value"),
        ("--property==large", "write a name, an equals sign and a value"),
        ("--drain-timeout=1w", "write a whole number with s, m, h or d"),
        ("--file-cache-size=20GB", "write a whole number with K, M, G or T"),
        ("--check", "cannot be used with"),
    ] {
        let output = bitzel(&["worker", "grpc://127.0.0.1:1", option]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(reason), "{option}: {text}");
        assert_eq!(output.status.code(), Some(2));
    }
}
