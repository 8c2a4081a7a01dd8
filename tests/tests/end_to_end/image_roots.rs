//! Builds in image roots: root file systems out of the store, the same on every machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use bitzel_tests::peers::skip;
use bitzel_tests::{
    BitzelServer, BuildReport, DebianRoot, MinimalRoot, RootedWorker, Site, bitbake_directory, poll_until,
    run, text_of,
};

use super::roots::client;

const CONFIGURATION: &str = "[execution]\njobs = 0\nno_worker_timeout = \"3s\"\n";

/// The report of the native program in the root of Debian 13.
const ON_TRIXIE: &str = "compiled for 2.41, runs with 2.41\n";

fn debian_roots() -> Option<[DebianRoot; 2]> {
    match ["bookworm", "trixie"].map(DebianRoot::find) {
        [Some(bookworm), Some(trixie)] => Some([bookworm, trixie]),
        _ => {
            skip(
                "roots of Debian 12 and 13",
                "`make setup` makes these roots with Debian's mmdebstrap where it is root and has a mirror",
            );
            None
        }
    }
}

/// The digest of a root that a site imports.
fn import(site: &Site, root: &Path, arguments: &[&str]) -> String {
    let mut command = site.bitzel("root");
    let digest = run(command.arg("import").arg(root).args(arguments));
    digest.trim().to_owned()
}

/// Builds the report on a site, and returns its text too.
fn build(site: &Site, arguments: &[&str]) -> (BuildReport, String) {
    let output = site.path("output");
    let output_text = output.display().to_string();
    let arguments = [arguments, &["--output", &output_text, "report:do_deploy"]].concat();
    let report = site.build(&arguments).succeeded();
    let text = std::fs::read_to_string(output.join("report/report")).expect("a deployed report");
    (report, text)
}

#[test]
fn machines_with_other_roots_share_the_results_of_an_image_root() {
    let Some([bookworm, trixie]) = debian_roots() else {
        return;
    };
    let site = Site::empty();
    std::fs::write(site.path("bitzel.toml"), CONFIGURATION).expect("a configuration");
    let configuration = site.path("bitzel.toml").display().to_string();
    let server = BitzelServer::start_with(&site, &["--config", &configuration, "--admin", "127.0.0.1:0"]);
    let url = server.url();
    std::fs::create_dir(site.path("worker")).expect("a cache directory");
    let mut worker: RootedWorker = bookworm.start_worker(&site.path("worker"), &url);
    poll_until("the worker is connected", || {
        worker.assert_runs();
        server.metrics().contains("\nbitzel_workers 1\n").then_some(())
    });

    // By name, on a worker whose own root is Debian 12.
    let first_client = client();
    let digest = import(
        &first_client,
        trixie.path(),
        &["--name", "trixie", "--remote", &url],
    );
    let (first, said) = build(&first_client, &["--remote", &url, "--root", "trixie"]);
    assert_eq!(said, ON_TRIXIE);
    assert!(first.tasks("ran").contains("probe-native:do_compile"));

    // By the file that a team checks in. This client has nothing of the root.
    let second_client = client();
    let file = run(first_client.bitzel("root").args(["show", "--file", "trixie"]));
    assert!(file.contains(&digest), "{file}");
    std::fs::write(second_client.path("build/conf/bitzel-root"), file).expect("a file beside the layers");
    let (second, said) = build(&second_client, &["--remote", &url]);
    assert_eq!(second.tasks("ran"), BTreeSet::new());
    assert_eq!(said, ON_TRIXIE);

    // On the machine of the client, whose root is a third one. Its task runs there, and sees the same root.
    let third_client = client();
    let (third, said) = build(&third_client, &["--remote-cache", &url, "--root", &digest]);
    assert_eq!(third.tasks("ran"), BTreeSet::new());
    assert_eq!(said, ON_TRIXIE);
    let (forced, said) = build(
        &third_client,
        &["--remote-cache", &url, "--root", &digest, "-C", "compile"],
    );
    assert!(forced.tasks("ran").contains("report:do_compile"));
    assert_eq!(said, ON_TRIXIE);

    // The file is there, and the worker's own root is asked for: nothing crosses.
    let own = bookworm.identity(&site);
    let (other, said) = build(&second_client, &["--remote", &url, "--root-identity", &own]);
    assert_eq!(said, "compiled for 2.36, runs with 2.36\n");
    assert_eq!(other.tasks("ran"), first.tasks("ran"));
    drop(worker);
}

#[test]
fn builds_on_a_machine_without_compiler_and_python() {
    let Some([_, trixie]) = debian_roots() else {
        return;
    };
    let site = client();
    import(&site, trixie.path(), &["--name", "trixie"]);
    let machine = MinimalRoot::create();
    for program in ["python3", "gcc", "cc", "sh", "make"] {
        assert!(
            !machine.path().join("usr/bin").join(program).exists(),
            "{program}"
        );
    }
    let output = site.path("output");
    let mut command = machine.bitzel(&site, &[bitbake_directory()]);
    command
        .arg("build")
        .args(site.build_directory_arguments())
        .args(["--root", "trixie", "--output"])
        .arg(&output)
        .arg("report:do_deploy")
        .stdin(Stdio::null());
    let built = command.output().expect("bubblewrap starts");
    assert!(built.status.success(), "{}", text_of(&built));
    let said = std::fs::read_to_string(output.join("report/report")).expect("a deployed report");
    assert_eq!(said, ON_TRIXIE);
}

#[test]
fn lists_shows_and_removes_roots() {
    let site = Site::empty();
    let root = site.path("small-root");
    std::fs::create_dir_all(root.join("etc")).expect("a directory");
    std::fs::write(root.join("etc/motd"), "hello").expect("a file");
    let digest = import(&site, &root, &["--name", "small"]);
    let list = run(site.bitzel("root").arg("list"));
    assert!(
        list.starts_with(&format!("{digest}  small  1 files, 5 B  bitzel root import ")),
        "{list}"
    );
    let shown = run(site.bitzel("root").args(["show", &digest]));
    assert!(shown.contains("directories  2\n"), "{shown}");
    run(site.bitzel("root").args(["remove", "small"]));
    assert_eq!(run(site.bitzel("root").arg("list")), "");
    let unknown = site.build(&["--root", "small", "zlib"]).failed();
    unknown.assert_says(&["there is no root \"small\" on this machine", "bitzel root list"]);
    let both = site
        .build(&["--root", &digest, "--root-identity", "farm", "zlib"])
        .failed();
    both.assert_says(&["--root and --root-identity ask for two root file systems"]);
}

#[test]
fn says_how_to_get_a_root_that_no_store_has() {
    let site = Site::empty();
    let absent = format!("{}/80", "0".repeat(64));
    let file = format!("digest = \"{absent}\"\nsource = \"bitzel root make --suite trixie\"\n");
    std::fs::write(site.path("bitzel-root"), file).expect("a file beside the build directory");
    let report = site.build(&["zlib"]).failed();
    report.assert_says(&[
        &format!("the store does not have the root {absent}"),
        "it is made like this: bitzel root make --suite trixie",
    ]);
}

#[test]
fn two_roots_made_from_the_same_packages_are_one() {
    let site = Site::empty();
    let mut probe = site.command("mmdebstrap");
    probe.args(["--simulate", "--variant=essential", "bookworm", "/dev/null"]);
    let can_make = probe
        .stdin(Stdio::null())
        .output()
        .is_ok_and(|output| output.status.success());
    if !can_make {
        return skip("roots made twice", "mmdebstrap or its mirror is not there");
    }
    // With scripts that compile Python, and a locale.
    let list = site.path("packages");
    std::fs::write(&list, "locales\npython3-minimal # with bytecode\n").expect("a list of packages");
    let make = |name: &str| {
        let mut command = site.bitzel("root");
        command
            .args(["make", "--name", name, "--package-list"])
            .arg(&list);
        run(&mut command).trim().to_owned()
    };
    assert_eq!(make("one"), make("two"));
}
