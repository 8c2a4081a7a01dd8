//! Intermediate outputs that exist only on the server, and get lost there.

use std::fs;
use std::path::{Path, PathBuf};

use bitzel_tests::bazel::{Bazel, BazelReport};
use bitzel_tests::peers::BAZEL;
use bitzel_tests::{BitzelServer, Site};
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

/// The output of `below` is in no other blob: neither in a command line nor in the output of `above`.
const BUILD: &str = r#"
genrule(name = "below", outs = ["below.txt"], cmd = "echo lost-$$((6 * 7))-found > $@")
genrule(
    name = "above",
    srcs = ["below.txt", "source.txt"],
    outs = ["above.txt"],
    cmd = "wc -c < $(location below.txt) > $@; cat $(location source.txt) >> $@",
)
genrule(name = "aside", outs = ["aside.txt"], cmd = "echo aside > $@")
"#;
const BELOW_OUTPUT: &[u8] = b"lost-42-found\n";

/// The output of `above`, with the changed source.
const ABOVE_OUTPUT: &str = "14\nchanged\n";

/// A workspace that was built once, with its outputs on the server only.
struct BuiltWorkspace {
    site: Site,
    bazel: Bazel,
}

impl BuiltWorkspace {
    /// Builds the workspace; `None` after a `SKIPPED` line if there is no Bazel.
    fn new() -> Option<Self> {
        let built = Self {
            site: Site::empty(),
            bazel: Bazel::new(BAZEL.program_or_skip()?),
        };
        fs::write(built.bazel.path("BUILD"), BUILD).expect("a BUILD file");
        let server = BitzelServer::start(&built.site);
        let first = built.build(&server, &[]).succeeded();
        assert_eq!(first.count("remote"), 3, "{}", first.text);
        assert!(!built.bazel.path("bazel-bin/below.txt").exists());
        Some(built)
    }

    fn build(&self, server: &BitzelServer, flags: &[&str]) -> BazelReport {
        let executor = server.bazel_executor_flag();
        let flags = [&[&*executor, "--remote_download_minimal"], flags].concat();
        self.bazel.build(&flags)
    }

    /// Changes one bit of the output of `below`, in the store of a stopped server.
    fn damage_below(&self) {
        let store = self.site.cache().join("bitzel/server/cas");
        let found = find(&store, BELOW_OUTPUT);
        let (file, offset) = found.expect("the store has the output of `below` as it is");
        let mut bytes = fs::read(&file).expect("a file of the store");
        bytes[offset] ^= 1;
        fs::write(&file, bytes).expect("a file of the store");
    }

    /// Damages the output of `below` and removes it from the index, so that the server reports it as missing.
    fn lose_below(&self) {
        self.damage_below();
        let mut verify = self.site.bitzel("store");
        let output = verify.arg("verify").output().expect("bitzel starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 of ") && text.contains("corrupt"), "{output:?}");
    }

    /// Builds after `bazel clean`, as Bazel's documentation advises when a cache has lost a blob: only lost outputs are
    /// built again, all others come from the cache.
    fn assert_recovers(&self, server: &BitzelServer) {
        self.bazel.clean();
        let report = self.build(server, &[]).succeeded();
        assert_eq!(report.count("remote"), 2, "{}", report.text);
        assert_eq!(report.count("remote cache hit"), 1, "{}", report.text);
        self.bazel.clean();
        let report = self.bazel.build(&[&server.bazel_executor_flag()]).succeeded();
        assert_eq!(report.count("remote cache hit"), 3, "{}", report.text);
        let text = fs::read_to_string(self.bazel.path("bazel-bin/above.txt")).expect("an output");
        assert_eq!(text, ABOVE_OUTPUT);
    }
}

/// The only file below a directory that contains these bytes, and their offset.
fn find(directory: &Path, bytes: &[u8]) -> Option<(PathBuf, usize)> {
    let files = WalkDir::new(directory).into_iter().filter_map(Result::ok);
    let mut found = files.filter_map(|entry| {
        let content = fs::read(entry.path()).ok()?;
        let offset = content.windows(bytes.len()).position(|part| part == bytes)?;
        Some((entry.into_path(), offset))
    });
    let first = found.next();
    assert_eq!(found.next(), None, "the bytes are in more than one file");
    first
}

/// Bazel names the input that it has to upload and does not have.
fn assert_names_the_lost_input(report: &BazelReport) {
    assert!(!report.success, "{}", report.text);
    let named = report.text.contains("below.txt (No such file or directory)");
    assert!(named, "{}", report.text);
}

#[test]
fn a_lost_intermediate_output_is_named_and_built_again() {
    let Some(built) = BuiltWorkspace::new() else {
        return;
    };
    built.lose_below();
    let server = BitzelServer::start(&built.site);
    built.bazel.edit_source("changed\n");
    assert_names_the_lost_input(&built.build(&server, &[]));
    built.assert_recovers(&server);
}

#[test]
fn an_output_found_lost_in_execution_is_a_missing_blob() {
    let Some(built) = BuiltWorkspace::new() else {
        return;
    };
    built.damage_below();
    // The worker has a copy in its file cache.
    fs::remove_dir_all(built.site.cache().join("bitzel/worker")).expect("the worker's files");
    let server = BitzelServer::start(&built.site);
    built.bazel.edit_source("changed\n");
    // All calls, with the details of each status.
    let log = built.site.path("grpc.log");
    let flag = format!("--experimental_remote_grpc_log={}", log.display());
    assert_names_the_lost_input(&built.build(&server, &[&flag]));
    let log = fs::read(log).expect("Bazel's log");
    let subject = format!("blobs/{:x}/{}", Sha256::digest(BELOW_OUTPUT), BELOW_OUTPUT.len());
    // Of a PreconditionFailure.Violation: the type, then the subject.
    let length = u8::try_from(subject.len()).expect("a short text");
    let violation = [b"\x0a\x07MISSING\x12", &[length][..], subject.as_bytes()].concat();
    let found = log.windows(violation.len()).any(|part| part == violation);
    assert!(
        found,
        "no violation names the blob: {}",
        String::from_utf8_lossy(&log)
    );
    built.assert_recovers(&server);
}
