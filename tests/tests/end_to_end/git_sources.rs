//! Git sources, at a fixed revision and at the newest one.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Lines};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use bitzel_tests::{Site, free_address, run};
use rustix::process::{Pid, Signal, kill_process_group};

pub(super) fn git(repository: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command
        .args([
            "-c",
            "user.name=Somebody",
            "-c",
            "user.email=somebody@example.org",
        ])
        .arg("-C")
        .arg(repository)
        .args(arguments);
    run(&mut command).trim().to_owned()
}

/// Commits `text` as the only file of the repository; returns the revision.
pub(super) fn commit(repository: &Path, text: &str) -> String {
    std::fs::write(repository.join("text"), text).expect("a file");
    git(repository, &["add", "text"]);
    git(repository, &["commit", "--quiet", "--message", text]);
    git(repository, &["rev-parse", "HEAD"])
}

/// `git daemon` with the repositories of a site. Ended when it is dropped.
pub(super) struct GitDaemon {
    process: Child,
    pub(super) port: u16,
    /// The read end of its log. Without it the daemon would end.
    _log: Lines<BufReader<ChildStderr>>,
}

impl GitDaemon {
    pub(super) fn start(site: &Site, address: &str) -> Self {
        // git does not print the port that the system chooses. If another program takes this one before, the daemon fails.
        let port = free_address().port();
        let mut process = Command::new("git")
            .args(["daemon", "--export-all", "--reuseaddr", "--verbose"])
            .arg(format!("--listen={address}"))
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", site.path("").display()))
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("git daemon starts");
        let mut log = BufReader::new(process.stderr.take().expect("standard error is a pipe")).lines();
        let ready = log
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("Ready"));
        assert!(ready, "git daemon ended before it was ready");
        Self {
            process,
            port,
            _log: log,
        }
    }
}

impl Drop for GitDaemon {
    fn drop(&mut self) {
        // The daemon is a child of the git command; both are in one process group.
        let _ = kill_process_group(Pid::from_child(&self.process), Signal::TERM);
        let _ = self.process.wait();
    }
}

/// A site with a repository, its daemon, and a recipe that deploys the content of the repository at `revision`.
fn site(address: &str, revision: impl Fn(&str) -> String) -> (Site, PathBuf, GitDaemon) {
    let site = Site::empty();
    let repository = site.path("repository");
    std::fs::create_dir_all(&repository).expect("a directory");
    git(&repository, &["init", "--quiet", "--initial-branch", "main"]);
    let first = commit(&repository, "first");
    let daemon = GitDaemon::start(&site, address);
    let recipe = format!(
        r#"
LICENSE = "MIT"
SRCREV = "{}"
PV = "1.0+${{@bb.fetch2.get_srcrev(d)}}"
SRC_URI = "git://{address}:{}/repository;protocol=git;branch=main"
B = "${{WORKDIR}}/build"
do_install() {{
	:
}}
do_deploy[dirs] = "${{UNPACKDIR}}"
do_deploy() {{
	find . -name text -exec cp {{}} ${{DEPLOYDIR}}/ ';'
}}
"#,
        revision(&first),
        daemon.port
    );
    site.add_recipe("versioned", &recipe);
    (site, repository, daemon)
}

pub(super) const LOOPBACK: &str = "127.0.0.1";

/// Builds the recipe on a machine where `do_fetch` has this kind of network.
fn deployed(site: &Site, network: &str) -> (String, BTreeSet<String>) {
    let output = site.path("output");
    let report = site
        .build(&[
            "--action-network",
            network,
            "--output",
            &output.display().to_string(),
            "versioned",
        ])
        .succeeded();
    let text = std::fs::read_to_string(output.join("versioned/text")).expect("the recipe deploys a text");
    (text, report.tasks("ran"))
}

#[test]
fn a_fixed_revision_is_fetched_once() {
    let (site, repository, _daemon) = site(LOOPBACK, str::to_owned);
    assert_eq!(deployed(&site, "host").0, "first");
    commit(&repository, "second");
    let (text, ran) = deployed(&site, "host");
    assert_eq!(text, "first");
    assert_eq!(ran, BTreeSet::new());
}

#[test]
fn every_build_looks_up_the_newest_revision() {
    let (site, repository, _daemon) = site(LOOPBACK, |_| "${AUTOREV}".to_owned());
    assert_eq!(deployed(&site, "host").0, "first");
    let (text, ran) = deployed(&site, "host");
    assert_eq!((text.as_str(), ran), ("first", BTreeSet::new()));
    commit(&repository, "second");
    let (text, ran) = deployed(&site, "host");
    assert_eq!(text, "second");
    assert!(ran.contains("versioned:do_fetch"), "{ran:?}");
}

/// Address of this machine on its loopback interface that is no loopback address. Removed when it is dropped.
struct RoutedAddress;

impl RoutedAddress {
    const ADDRESS: &str = "198.51.100.78";

    fn ip(verb: &str) -> bool {
        let mut command = Command::new("ip");
        command.args(["address", verb, &format!("{}/32", Self::ADDRESS), "dev", "lo"]);
        command
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

impl Drop for RoutedAddress {
    fn drop(&mut self) {
        Self::ip("delete");
    }
}

#[test]
fn sources_are_fetched_in_an_isolated_network() {
    const TEST: &str = "sources_are_fetched_in_an_isolated_network";
    if Command::new("pasta").arg("--version").output().is_err() {
        println!("SKIPPED: {TEST}: pasta is not in PATH; install the package passt");
        return;
    }
    if !RoutedAddress::ip("add") {
        println!("SKIPPED: {TEST}: no privilege to add an address to the loopback interface");
        return;
    }
    let _address = RoutedAddress;
    let (site, _repository, _daemon) = site(RoutedAddress::ADDRESS, str::to_owned);
    assert_eq!(deployed(&site, "isolated").0, "first");
}
