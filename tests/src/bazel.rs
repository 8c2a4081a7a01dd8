//! Bazel with a small workspace, as a client of `bitzel serve`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::program_output::text_of;

/// Longer than any of these builds takes; only a Bazel that hangs reaches it.
const TIMEOUT_SECONDS: &str = "300";

/// Two genrules, of which `above` reads the output of `below`, and a test of the output of `above`. Bazel's own
/// `sh_test` needs a C++ toolchain and downloads, so the test is a rule of the workspace.
const BUILD: &str = r#"
load(":contains_test.bzl", "contains_test")
genrule(name = "below", outs = ["below.txt"], cmd = "echo below > $@")
genrule(name = "above", srcs = ["below.txt", "source.txt"], outs = ["above.txt"], cmd = "cat $(SRCS) > $@")
contains_test(name = "test", file = "above.txt", text = "below")
"#;

const CONTAINS_TEST: &str = r##"
def _contains_test(ctx):
    script = "#!/bin/sh\ngrep -q '%s' '%s'\n" % (ctx.attr.text, ctx.file.file.short_path)
    ctx.actions.write(ctx.outputs.executable, script, is_executable = True)
    return [DefaultInfo(runfiles = ctx.runfiles(files = [ctx.file.file]))]

contains_test = rule(
    implementation = _contains_test,
    test = True,
    attrs = {"file": attr.label(allow_single_file = True), "text": attr.string()},
)
"##;

/// A target on which every test rule depends. Bazel would download it, although nothing here measures coverage.
const COVERAGE_TOOLS: &str =
    "filegroup(name = \"coverage_report_generator\", visibility = [\"//visibility:public\"])\n";

/// Actions of the workspace that can run remotely: two genrules and the test.
pub const REMOTE_ACTIONS: u64 = 3;

/// A workspace with its own Bazel server. Both are removed when it is dropped.
pub struct Bazel {
    program: PathBuf,
    directory: TempDir,
    startup_flags: Vec<String>,
}

/// Result of a run of Bazel.
#[derive(Debug)]
pub struct BazelReport {
    /// True if Bazel succeeded.
    pub success: bool,
    /// Standard output and, after it, standard error.
    pub text: String,
}

impl Bazel {
    /// A workspace without any builds.
    pub fn new(program: PathBuf) -> Self {
        let directory = TempDir::with_prefix("bitzel-bazel-").expect("a temporary directory");
        let bazel = Self {
            program,
            directory,
            startup_flags: Vec::new(),
        };
        bazel.write("workspace/WORKSPACE", "");
        bazel.write("workspace/BUILD", BUILD);
        bazel.write("workspace/contains_test.bzl", CONTAINS_TEST);
        bazel.write("workspace/source.txt", "source\n");
        bazel.write("coverage_tools/WORKSPACE", "");
        bazel.write("coverage_tools/BUILD", COVERAGE_TOOLS);
        bazel
    }

    /// As [`new`](Self::new), and trusts an authority (a PEM file) for HTTPS, for which Bazel has no flag.
    pub fn trusting(program: PathBuf, authority: &Path) -> Self {
        let mut bazel = Self::new(program);
        let store = bazel.directory.path().join("authorities");
        // A program of the Java that runs Bazel.
        let output = Command::new("keytool")
            .args([
                "-importcert",
                "-noprompt",
                "-alias",
                "authority",
                "-storepass",
                "changeit",
            ])
            .arg("-file")
            .arg(authority)
            .arg("-keystore")
            .arg(&store)
            .output()
            .expect("keytool starts");
        assert!(output.status.success(), "{output:?}");
        bazel.startup_flags = vec![
            format!("--host_jvm_args=-Djavax.net.ssl.trustStore={}", store.display()),
            "--host_jvm_args=-Djavax.net.ssl.trustStorePassword=changeit".to_owned(),
        ];
        bazel
    }

    /// As [`new`](Self::new), with gRPC over TLS. Bazel connects with netty, and Debian builds netty without the class for
    /// HTTP/2 with Java's own TLS (`JdkAlpnApplicationProtocolNegotiator`), so `grpcs://` fails with "JDK provider does
    /// not support ALPN protocol" on every Java. netty can also use OpenSSL, through a library that Debian packages:
    /// `netty_tcnative`.
    pub fn with_grpc_over_tls(program: PathBuf, netty_tcnative: &Path) -> Self {
        let mut bazel = Self::new(program);
        let libraries = bazel.directory.path().join("libraries");
        std::fs::create_dir(&libraries).expect("a directory of libraries");
        // A copy: the library checks its own file name, after resolving symbolic links, and refuses Debian's name.
        std::fs::copy(netty_tcnative, libraries.join("libnetty_tcnative.so")).expect("a copy of the library");
        bazel.startup_flags = vec![format!(
            "--host_jvm_args=-Djava.library.path={}",
            libraries.display()
        )];
        bazel
    }

    /// A path inside the workspace.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join("workspace").join(relative)
    }

    /// Changes the source of the upper genrule.
    pub fn edit_source(&self, text: &str) {
        self.write("workspace/source.txt", text);
    }

    /// Runs `bazel test //:all` with these flags.
    pub fn test(&self, flags: &[&str]) -> BazelReport {
        // Makes the XML report part of the test's Action. A separate Action has the test's duration as an argument, so its
        // digest may differ each time.
        self.run(
            "test",
            &[&["--noexperimental_split_xml_generation"], flags].concat(),
        )
    }

    /// Runs `bazel build //:all` with these flags.
    pub fn build(&self, flags: &[&str]) -> BazelReport {
        self.run("build", flags)
    }

    fn run(&self, subcommand: &str, flags: &[&str]) -> BazelReport {
        let coverage_tools = self.directory.path().join("coverage_tools");
        let output = self
            .command()
            .arg(subcommand)
            .args(["--color=no", "--curses=no", "--noshow_progress", "--jobs=4"])
            .arg(format!(
                "--override_repository=remote_coverage_tools={}",
                coverage_tools.display()
            ))
            .args(flags)
            .arg("//:all")
            .output()
            .expect("bazel starts");
        BazelReport::new(&output)
    }

    /// Runs `bazel clean`, which removes all outputs from the workspace.
    pub fn clean(&self) {
        let output = self.command().arg("clean").output().expect("bazel starts");
        assert!(output.status.success(), "{output:?}");
    }

    fn command(&self) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["--kill-after=10", TIMEOUT_SECONDS])
            .arg(&self.program)
            // Not `--nosystem_rc`: that file has the paths of Debian's parts of Bazel.
            .arg("--nohome_rc")
            .arg(format!(
                "--output_user_root={}",
                self.directory.path().join("output").display()
            ))
            // Ends the server if this program is killed.
            .arg("--max_idle_secs=60")
            .args(&self.startup_flags)
            .current_dir(self.path(""));
        command
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.directory.path().join(path);
        let parent = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).expect("a directory of the workspace");
        std::fs::write(path, text).expect("a file of the workspace");
    }
}

impl Drop for Bazel {
    fn drop(&mut self) {
        // A server that does not end only prevents the removal of the directory.
        let _ = self.command().arg("shutdown").output();
        // Bazel makes its outputs read-only.
        let _ = Command::new("chmod")
            .args(["-R", "u+w"])
            .arg(self.directory.path())
            .output();
    }
}

impl BazelReport {
    fn new(output: &Output) -> Self {
        Self {
            success: output.status.success(),
            text: text_of(output),
        }
    }

    /// Panics with the output unless the run succeeded.
    #[must_use]
    pub fn succeeded(self) -> Self {
        assert!(self.success, "bazel failed:\n{}", self.text);
        self
    }

    /// Numbers of processes by kind, from Bazel's summary `INFO: 7 processes: 4 remote cache hit, 3 internal.`.
    pub fn processes(&self) -> BTreeMap<String, u64> {
        let summary = self.text.lines().find_map(|line| {
            let (total, kinds) = line.strip_prefix("INFO: ")?.split_once(": ")?;
            total.contains(" process").then_some(kinds)
        });
        let summary = summary.unwrap_or_else(|| panic!("no summary of processes:\n{}", self.text));
        let kinds = summary.trim_end_matches('.').split(", ");
        kinds
            .map(|kind| {
                let (number, kind) = kind.split_once(' ').expect("a number and a kind");
                (kind.to_owned(), number.parse().expect("a number"))
            })
            .collect()
    }

    /// Number of processes of one kind.
    pub fn count(&self, kind: &str) -> u64 {
        self.processes().get(kind).copied().unwrap_or(0)
    }
}
