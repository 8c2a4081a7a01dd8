//! Bazel keeps no intermediate outputs, and the server loses one of them.

use std::fs;
use std::path::{Path, PathBuf};

use bitzel_tests::bazel::{Bazel, BazelReport};
use bitzel_tests::peers::BAZEL;
use bitzel_tests::{Server, Site};
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

/// The output of `below` is in no other blob: neither in a command line nor in what is made of it.
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
const BELOW: &[u8] = b"lost-42-found\n";

/// What is made of it, with the source as it was changed.
const ABOVE: &str = "14\nchanged\n";

/// A workspace that was built once, with its outputs on the server only.
struct Built {
    site: Site,
    bazel: Bazel,
}

impl Built {
    /// `None` after a line that says that there is no Bazel.
    fn new() -> Option<Self> {
        let built = Self {
            site: Site::empty(),
            bazel: Bazel::new(BAZEL.program_or_skip()?),
        };
        fs::write(built.bazel.path("BUILD"), BUILD).expect("a BUILD file");
        let server = Server::start(&built.site);
        let first = built.build(&server, &[]).succeeded();
        assert_eq!(first.count("remote"), 3, "{}", first.text);
        assert!(!built.bazel.path("bazel-bin/below.txt").exists());
        Some(built)
    }

    fn build(&self, server: &Server, flags: &[&str]) -> BazelReport {
        let executor = format!("--remote_executor={}", server.url());
        let flags = [&[&*executor, "--remote_download_minimal"], flags].concat();
        self.bazel.build(&flags)
    }

    /// Changes one bit of the output of `below`, in the store of a server that is not running.
    fn damage_below(&self) {
        let store = self.site.cache().join("bitzel/server/cas");
        let place = find(&store, BELOW);
        let (file, at) = place.expect("the store has the output of `below` as it is");
        let mut bytes = fs::read(&file).expect("a file of the store");
        bytes[at] ^= 1;
        fs::write(&file, bytes).expect("a file of the store");
    }

    /// Also takes it from the index: the server knows that it is not there.
    fn lose_below(&self) {
        self.damage_below();
        let mut verify = self.site.bitzel("store");
        let output = verify.arg("verify").output().expect("bitzel starts");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 of ") && text.contains("corrupt"), "{output:?}");
    }

    /// What Bazel's documentation advises when a cache has lost something that it counts on: `bazel clean`, and build
    /// again. What was lost is made again, and what was not comes from the cache.
    fn recovers(&self, server: &Server) {
        self.bazel.clean();
        let report = self.build(server, &[]).succeeded();
        assert_eq!(report.count("remote"), 2, "{}", report.text);
        assert_eq!(report.count("remote cache hit"), 1, "{}", report.text);
        self.bazel.clean();
        let executor = format!("--remote_executor={}", server.url());
        let report = self.bazel.build(&[&executor]).succeeded();
        assert_eq!(report.count("remote cache hit"), 3, "{}", report.text);
        let text = fs::read_to_string(self.bazel.path("bazel-bin/above.txt")).expect("an output");
        assert_eq!(text, ABOVE);
    }
}

/// The only file below a directory that has these bytes in it, and where.
fn find(directory: &Path, bytes: &[u8]) -> Option<(PathBuf, usize)> {
    let files = WalkDir::new(directory).into_iter().filter_map(Result::ok);
    let mut found = files.filter_map(|entry| {
        let content = fs::read(entry.path()).ok()?;
        let at = content.windows(bytes.len()).position(|part| part == bytes)?;
        Some((entry.into_path(), at))
    });
    let first = found.next();
    assert_eq!(found.next(), None, "the bytes are in more than one file");
    first
}

/// What Bazel says about the input that it should upload and does not have.
fn names_what_is_lost(report: &BazelReport) {
    assert!(!report.success, "{}", report.text);
    let named = report.text.contains("below.txt (No such file or directory)");
    assert!(named, "{}", report.text);
}

#[test]
fn a_lost_intermediate_output_that_bazel_counts_on_is_named_and_made_again() {
    let Some(built) = Built::new() else {
        return;
    };
    built.lose_below();
    let server = Server::start(&built.site);
    built.bazel.edit_source("changed\n");
    names_what_is_lost(&built.build(&server, &[]));
    built.recovers(&server);
}

#[test]
fn an_intermediate_output_that_turns_out_to_be_lost_when_it_is_needed_is_a_missing_blob() {
    let Some(built) = Built::new() else {
        return;
    };
    built.damage_below();
    // The worker has it at hand.
    fs::remove_dir_all(built.site.cache().join("bitzel/worker")).expect("the worker's files");
    let server = Server::start(&built.site);
    built.bazel.edit_source("changed\n");
    // What came over the wire, with the details of each status.
    let log = built.site.path("grpc.log");
    let flag = format!("--experimental_remote_grpc_log={}", log.display());
    names_what_is_lost(&built.build(&server, &[&flag]));
    let log = fs::read(log).expect("Bazel's log");
    let subject = format!("blobs/{:x}/{}", Sha256::digest(BELOW), BELOW.len());
    // Of a PreconditionFailure.Violation: the type, then the subject.
    let length = u8::try_from(subject.len()).expect("a short text");
    let violation = [b"\x0a\x07MISSING\x12", &[length][..], subject.as_bytes()].concat();
    let found = log.windows(violation.len()).any(|part| part == violation);
    assert!(
        found,
        "no violation names the blob: {}",
        String::from_utf8_lossy(&log)
    );
    built.recovers(&server);
}
