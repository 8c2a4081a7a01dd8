//! Kinds of sources that BitBake fetches, each from a local server.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::git_sources::{GitDaemon, LOOPBACK, commit, git};
use super::releases::CONFIGURATION;
use bitzel_tests::{BuildReport, FileServer, Release, Site, run, tree_of};

/// A server that nothing listens at: a source there can come only from a mirror.
const UNREACHABLE: &str = "http://127.0.0.1:9";

/// A site whose files below `files` a server offers.
struct Served {
    site: Site,
    server: FileServer,
}

impl Served {
    fn new(site: Site) -> Self {
        let files = site.path("files");
        std::fs::create_dir(&files).expect("a directory");
        let server = FileServer::start(&files);
        Self { site, server }
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.site.path("files").join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        path
    }

    /// Offers an archive with one file, made by GNU tar. Returns its SHA-256.
    fn archive(&self, name: &str, file: &str, content: &str) -> String {
        let directory = self.site.path("archived");
        let member = directory.join(file);
        std::fs::create_dir_all(member.parent().expect("a parent")).expect("a directory");
        std::fs::write(&member, content).expect("a file");
        let archive = self.path(name);
        run(Command::new("tar")
            .arg("-C")
            .arg(&directory)
            .arg("-czf")
            .arg(&archive)
            .arg(file));
        sha256(&archive)
    }
}

fn sha256(path: &Path) -> String {
    let line = run(Command::new("sha256sum").arg(path));
    line.split_whitespace().next().expect("a digest").to_owned()
}

/// A recipe that deploys all files that its sources are unpacked to.
fn recipe(source: &str, lines: &str) -> String {
    format!(
        r#"
LICENSE = "MIT"
SRC_URI = "{source}"
{lines}
B = "${{WORKDIR}}/build"
do_install() {{
	:
}}
do_deploy[dirs] = "${{UNPACKDIR}}"
do_deploy() {{
	find . -name .git -prune -o -type f -exec cp --parents {{}} ${{DEPLOYDIR}}/ ';'
}}
"#
    )
}

/// Builds the recipe `fetched` and returns the files that it deployed. Built again, nothing runs.
fn deployed(site: &Site) -> BTreeSet<String> {
    let output = site.path("output");
    let directory = output.display().to_string();
    drop(build(site, &["--output", &directory, "fetched"]).succeeded());
    let second = build(site, &["fetched"]).succeeded();
    assert_eq!(second.tasks("ran"), BTreeSet::new());
    tree_of(&output)
        .into_keys()
        .map(|path| path.display().to_string())
        .collect()
}

/// Builds with network for `do_fetch`, the loopback interface included.
fn build(site: &Site, arguments: &[&str]) -> BuildReport {
    site.build(&[&["--action-network", "host"], arguments].concat())
}

fn assert_deploys(site: &Site, name: &str) {
    let files = deployed(site);
    assert!(
        files.iter().any(|path| path.ends_with(name)),
        "{name} is not in {files:?}"
    );
}

#[test]
fn git_with_submodules() {
    let site = Site::empty();
    let [repository, library] = ["repository", "library"].map(|name| {
        let path = site.path(name);
        std::fs::create_dir_all(&path).expect("a directory");
        git(&path, &["init", "--quiet", "--initial-branch", "main"]);
        path
    });
    let daemon = GitDaemon::start(&site, LOOPBACK);
    let inner = commit(&library, "inner");
    let module = format!(
        "[submodule \"part\"]\n\tpath = part\n\turl = git://{LOOPBACK}:{}/library\n\tbranch = main\n",
        daemon.port
    );
    std::fs::write(repository.join(".gitmodules"), module).expect("a file");
    git(&repository, &["add", ".gitmodules"]);
    git(
        &repository,
        &[
            "update-index",
            "--add",
            "--cacheinfo",
            &format!("160000,{inner},part"),
        ],
    );
    let revision = commit(&repository, "outer");
    let source = format!(
        "gitsm://{LOOPBACK}:{}/repository;protocol=git;branch=main",
        daemon.port
    );
    site.add_recipe("fetched", &recipe(&source, &format!("SRCREV = \"{revision}\"")));
    assert_deploys(&site, "part/text");
}

#[test]
fn rust_crate() {
    let served = Served::new(Site::empty());
    let checksum = served.archive("crates/part/1.2.3/download", "part-1.2.3/src.rs", "// source");
    let host = served.server.url().replace("http://", "");
    let source = format!("crate://{host}/crates/part/1.2.3;protocol=http");
    served.site.add_recipe(
        "fetched",
        &recipe(
            &source,
            &format!("SRC_URI[part-1.2.3.sha256sum] = \"{checksum}\""),
        ),
    );
    assert_deploys(&served.site, "part-1.2.3/src.rs");
}

#[test]
fn go_module_by_a_premirror() {
    let served = Served::new(Site::empty());
    let archive = served.path("example.com.part@v1.2.3.zip");
    let script = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w') as z:\n    \
                  z.writestr('example.com/part@v1.2.3/go.mod', 'module example.com/part\\n')";
    run(Command::new("/usr/bin/python3")
        .args(["-c", script])
        .arg(&archive));
    let checksum = sha256(&archive);
    let mirror = format!("PREMIRRORS = \"https://.*/.* {}/\"\n", served.server.url());
    served.site.configure(&mirror);
    let source = format!("gomod://example.com/part;version=v1.2.3;sha256sum={checksum}");
    served.site.add_recipe("fetched", &recipe(&source, ""));
    assert_deploys(&served.site, "example.com/part/@v/v1.2.3.mod");
}

#[test]
fn npm_shrinkwrap() {
    // Newer releases have disabled this fetcher.
    let Some(release) = Release::find_or_skip("5.2.1") else {
        return;
    };
    let served = Served::new(Site::with_bitbake(&release.bitbake));
    served.archive("part-1.2.3.tgz", "package/index.js", "// source");
    let archive = served.path("part-1.2.3.tgz");
    let command = format!("openssl dgst -sha512 -binary {} | base64 -w0", archive.display());
    let integrity = run(Command::new("sh").args(["-c", &command]));
    let shrinkwrap = format!(
        r#"{{"name": "fetched", "version": "1.0.0", "lockfileVersion": 2, "packages": {{"node_modules/part": {{
"version": "1.2.3", "resolved": "{}/part-1.2.3.tgz", "integrity": "sha512-{integrity}"}}}}}}"#,
        served.server.url()
    );
    let source = "npmsw://${FILE_DIRNAME}/files/npm-shrinkwrap.json;destsuffix=fetched";
    served.site.add_recipe("fetched", &recipe(source, ""));
    let files = served.site.layer().join("recipes/fetched/files");
    std::fs::create_dir(&files).expect("a directory");
    std::fs::write(files.join("npm-shrinkwrap.json"), shrinkwrap).expect("a file");
    assert_deploys(&served.site, "node_modules/part/index.js");
}

#[test]
fn premirror() {
    let served = Served::new(Site::empty());
    let checksum = served.archive("part.tar.gz", "part/file", "content");
    let mirror = format!("PREMIRRORS = \"http://.*/.* {}/\"\n", served.server.url());
    served.site.configure(&mirror);
    let source = format!("{UNREACHABLE}/part.tar.gz;sha256sum={checksum}");
    served.site.add_recipe("fetched", &recipe(&source, ""));
    assert_deploys(&served.site, "part/file");
}

#[test]
fn own_mirrors_of_openembedded_core() {
    let Some(release) = Release::find_or_skip("6.0.2") else {
        return;
    };
    let served = Served::new(Site::of_release(&release, CONFIGURATION));
    served.site.add_layer_to_core("wrynose");
    let checksum = served.archive("part.tar.gz", "part/file", "content");
    let mirror = format!(
        "INHERIT += \"own-mirrors\"\nSOURCE_MIRROR_URL = \"{}/\"\n",
        served.server.url()
    );
    served.site.configure(&mirror);
    let text = format!(
        "LICENSE = \"CLOSED\"\ninherit native\nINHIBIT_DEFAULT_DEPS = \"1\"\nSRC_URI = \"{UNREACHABLE}/part.tar.gz\"\n\
         SRC_URI[sha256sum] = \"{checksum}\"\n"
    );
    served.site.add_recipe("fetched-native", &text);
    let report = build(&served.site, &["-c", "unpack", "fetched-native"]).succeeded();
    assert!(
        report.tasks("ran").contains("fetched-native:do_unpack"),
        "{}",
        report.text
    );
}

#[test]
fn no_network_is_an_error_of_bitbake() {
    let served = Served::new(Site::empty());
    let checksum = served.archive("part.tar.gz", "part/file", "content");
    served.site.configure("BB_NO_NETWORK = \"1\"\n");
    let source = format!("{}/part.tar.gz;sha256sum={checksum}", served.server.url());
    served.site.add_recipe("fetched", &recipe(&source, ""));
    let report = build(&served.site, &["fetched"]).failed();
    report.assert_says(&[
        "fetched:do_fetch FAILED",
        "Network access disabled through BB_NO_NETWORK",
    ]);
}

#[test]
fn a_wrong_checksum_is_an_error_of_bitbake() {
    let served = Served::new(Site::empty());
    let checksum = served.archive("part.tar.gz", "part/file", "content");
    let wrong = "0".repeat(64);
    let source = format!("{}/part.tar.gz;sha256sum={wrong}", served.server.url());
    served.site.add_recipe("fetched", &recipe(&source, ""));
    let report = build(&served.site, &["fetched"]).failed();
    let found = format!("has sha256 checksum '{checksum}' when '{wrong}' was expected");
    report.assert_says(&["fetched:do_fetch FAILED", &found]);
}
