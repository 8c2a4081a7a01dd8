//! Sources in git, at a fixed revision and at the newest one.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Lines};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use bitzel_tests::Site;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

fn git(repository: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=Somebody",
            "-c",
            "user.email=somebody@example.org",
        ])
        .arg("-C")
        .arg(repository)
        .args(arguments)
        .output()
        .expect("git starts");
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// Commits `text` as the one file of the repository; gives the revision.
fn commit(repository: &Path, text: &str) -> String {
    std::fs::write(repository.join("text"), text).expect("a file");
    git(repository, &["add", "text"]);
    git(repository, &["commit", "--quiet", "--message", text]);
    git(repository, &["rev-parse", "HEAD"])
}

/// A repository that git serves on this machine, until it is dropped.
struct Served {
    daemon: Child,
    port: u16,
    /// Its log; with nobody to read that, the daemon would end.
    _log: Lines<BufReader<ChildStderr>>,
}

impl Served {
    fn start(site: &Site) -> Self {
        // git cannot say which port the system chose for it, so one is chosen here; the daemon fails if it is gone
        // meanwhile.
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let mut daemon = Command::new("git")
            .args([
                "daemon",
                "--export-all",
                "--reuseaddr",
                "--listen=127.0.0.1",
                "--verbose",
            ])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", site.path("").display()))
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("git daemon starts");
        let mut log = BufReader::new(daemon.stderr.take().expect("standard error is a pipe")).lines();
        let ready = log
            .by_ref()
            .map_while(Result::ok)
            .any(|line| line.contains("Ready"));
        assert!(ready, "git daemon ended before it was ready");
        Self {
            daemon,
            port,
            _log: log,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // The daemon is a child of the git command; both are in one process group.
        let group = Pid::from_raw(self.daemon.id().try_into().expect("a process id"));
        let _ = killpg(group, Signal::SIGTERM);
        let _ = self.daemon.wait();
    }
}

/// A site with a served repository, and a recipe that deploys what is in there at `revision`.
fn site(revision: impl Fn(&str) -> String) -> (Site, PathBuf, Served) {
    let site = Site::empty();
    let repository = site.path("repository");
    std::fs::create_dir_all(&repository).expect("a directory");
    git(&repository, &["init", "--quiet", "--initial-branch", "main"]);
    let first = commit(&repository, "first");
    let served = Served::start(&site);
    let recipe = format!(
        r#"
LICENSE = "MIT"
SRCREV = "{}"
PV = "1.0+${{@bb.fetch2.get_srcrev(d)}}"
SRC_URI = "git://127.0.0.1:{}/repository;protocol=git;branch=main"
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
        served.port
    );
    site.add_recipe("versioned", &recipe);
    (site, repository, served)
}

fn deployed(site: &Site) -> (String, BTreeSet<String>) {
    let output = site.path("output");
    let report = site
        .build(&["--output", &output.display().to_string(), "versioned"])
        .succeeded();
    let text = std::fs::read_to_string(output.join("versioned/text")).expect("the recipe deploys a text");
    (text, report.tasks("ran"))
}

#[test]
fn a_fixed_revision_is_fetched_once_and_stays() {
    let (site, repository, _served) = site(str::to_owned);
    assert_eq!(deployed(&site).0, "first");
    commit(&repository, "second");
    let (text, ran) = deployed(&site);
    assert_eq!(text, "first");
    assert_eq!(ran, BTreeSet::new());
}

#[test]
fn the_newest_revision_is_looked_up_for_every_build() {
    let (site, repository, _served) = site(|_| "${AUTOREV}".to_owned());
    assert_eq!(deployed(&site).0, "first");
    let (text, ran) = deployed(&site);
    assert_eq!((text.as_str(), ran), ("first", BTreeSet::new()));
    commit(&repository, "second");
    let (text, ran) = deployed(&site);
    assert_eq!(text, "second");
    assert!(ran.contains("versioned:do_fetch"), "{ran:?}");
}
