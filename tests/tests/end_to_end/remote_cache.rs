//! Local builds with a shared cache.

use std::collections::BTreeSet;

use bitzel_tests::{BitzelServer, BuildReport, Site};

const RECIPE: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo shared > ${D}${datadir}/shared
}
do_deploy() {
	cp ${D}${datadir}/shared ${DEPLOYDIR}/
}
"#;

fn site() -> Site {
    let site = Site::empty();
    site.add_recipe("shared", RECIPE);
    site
}

fn build(site: &Site, cache: &str, more: &[&str]) -> BuildReport {
    let output = site.path("output").display().to_string();
    let arguments = [&["--remote-cache", cache, "--output", &output, "shared"], more].concat();
    let report = site.build(&arguments).succeeded();
    let placed = std::fs::read_to_string(site.path("output/shared/shared")).expect("the output");
    assert_eq!(placed, "shared\n");
    report
}

/// A server without execution.
fn cache() -> (Site, BitzelServer) {
    let site = Site::empty();
    let server = BitzelServer::start_with(&site, &["--jobs", "0"]);
    (site, server)
}

#[test]
fn a_second_machine_takes_results_from_the_cache() {
    let (_site, server) = cache();
    let first = build(&site(), &server.url(), &[]);
    assert!(first.tasks("ran").contains("shared:do_install"), "{}", first.text);
    let wiped = site();
    let second = build(&wiped, &server.url(), &[]);
    assert_eq!(second.tasks("ran"), BTreeSet::new(), "{}", second.text);
    // The results are in the local store now, so the build needs no cache.
    drop(server);
    let third = build(&wiped, "grpc://127.0.0.1:9", &[]);
    assert_eq!(third.tasks("failed"), BTreeSet::new());
    third.assert_says(&["the build goes on without it"]);
}

#[test]
fn a_read_only_client_writes_nothing() {
    let (_site, server) = cache();
    build(&site(), &server.url(), &["--remote-cache-read-only"]);
    let other = build(&site(), &server.url(), &[]);
    assert!(other.tasks("ran").contains("shared:do_install"), "{}", other.text);
}

#[test]
fn an_unknown_url_scheme_is_an_error() {
    let site = site();
    let report = site
        .build(&["--remote-cache", "gopher://cache", "shared"])
        .failed();
    report.assert_says(&["gopher", "hint: write grpc://host:port"]);
}

#[test]
fn a_server_has_the_stores_of_its_configuration_file() {
    let server_site = Site::empty();
    let file = server_site.path("bitzel.toml");
    let text = "[execution]\nenabled = false\n\
                [blobs.tiered]\nfast.memory = {}\nslow.disk = { directory = \"blobs\", size = \"1GiB\" }\n\
                [actions.metered]\nname = \"results\"\ninner.disk = { directory = \"results\" }\n";
    std::fs::write(&file, text).expect("a configuration");
    let file = file.display().to_string();
    let check = |file: &str| {
        let output = server_site
            .bitzel("config")
            .args(["check", file])
            .output()
            .expect("bitzel starts");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    let (code, said) = check(&file);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("blobs in tiered(memory, disk), results in metered(disk)"),
        "{said}"
    );
    assert!(said.contains("execution: no"), "{said}");

    let server = BitzelServer::start_with(&server_site, &["--config", &file, "--admin", "127.0.0.1:0"]);
    build(&site(), &server.url(), &[]);
    let second = build(&site(), &server.url(), &[]);
    assert_eq!(second.tasks("ran"), BTreeSet::new(), "{}", second.text);
    let metrics = server.metrics();
    for expected in [
        "bitzel_action_cache_requests_total{cache=\"results\"",
        "bitzel_store_blobs{store=\"blobs\"}",
    ] {
        assert!(metrics.contains(expected), "no {expected} in:\n{metrics}");
    }
    assert!(server_site.path("blobs/index").is_dir());

    std::fs::write(&file, text.replace("[actions.metered]", "[actions.meterd]")).expect("a configuration");
    let (code, said) = check(&file);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("actions: unknown variant `meterd`"), "{said}");
    assert!(said.contains("bitzel.toml:6:"), "{said}");
}
