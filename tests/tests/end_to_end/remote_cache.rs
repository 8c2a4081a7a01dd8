//! Local builds with a shared cache.

use std::collections::BTreeSet;

use bitzel_tests::{BitzelServer, BuildReport, S3_KEYS, S3Server, Site};

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

/// A task whose outputs are placed, and another one whose outputs it needs.
const DEPLOYED: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	printf 'an input of the image, 36 bytes long' > ${D}${datadir}/input
}
do_deploy() {
	rev ${D}${datadir}/input > ${DEPLOYDIR}/image
	echo other > ${DEPLOYDIR}/other
}
"#;
const INPUT: &[u8] = b"an input of the image, 36 bytes long";
const IMAGE: &[u8] = b"gnol setyb 63 ,egami eht fo tupni na";

fn build_deployed(server: &S3Server, site: &Site) -> BuildReport {
    let keys = [
        ("AWS_ACCESS_KEY_ID", S3_KEYS.0),
        ("AWS_SECRET_ACCESS_KEY", S3_KEYS.1),
    ];
    let output = site.path("output").display().to_string();
    let arguments = ["--remote-cache", &server.url(), "--output", &output, "deployed"];
    let report = site.build_with(&keys, &arguments).succeeded();
    assert_eq!(
        std::fs::read(site.path("output/deployed/image")).expect("the output"),
        IMAGE
    );
    let other = std::fs::read(site.path("output/deployed/other")).expect("the other output");
    assert_eq!(other, b"other\n");
    report
}

fn deployed_site() -> Site {
    let site = Site::empty();
    site.add_recipe("deployed", DEPLOYED);
    site
}

/// Breaks an output of the target in a cache of somebody else, with or without what the target is made of.
fn assert_made_anew(damage: fn(&S3Server, &[u8]) -> usize, broken: &[&[u8]], ran: &[&str]) {
    let server = S3Server::start();
    drop(build_deployed(&server, &deployed_site()));
    for content in broken {
        assert_eq!(damage(&server, content), 1, "one blob of the cache is broken");
    }
    let site = deployed_site();
    let report = build_deployed(&server, &site);
    let expected: BTreeSet<String> = ran.iter().map(|task| (*task).to_owned()).collect();
    assert_eq!(report.tasks("ran"), expected, "{}", report.text);
    report.assert_says(&["deployed:do_deploy is built again for its outputs"]);
    // What was made anew is in the local store: the next build needs it from nobody.
    std::fs::remove_dir_all(site.path("output")).expect("the output");
    let again = build_deployed(&server, &site);
    assert_eq!(again.tasks("ran"), BTreeSet::new(), "{}", again.text);
}

#[test]
fn a_corrupt_output_in_the_cache_is_made_anew() {
    assert_made_anew(S3Server::corrupt, &[IMAGE], &["deployed:do_deploy"]);
}

#[test]
fn a_vanished_output_in_the_cache_is_made_anew() {
    assert_made_anew(S3Server::vanish, &[IMAGE], &["deployed:do_deploy"]);
}

#[test]
fn a_corrupt_input_of_a_corrupt_output_is_made_anew() {
    let ran = ["deployed:do_deploy", "deployed:do_install"];
    assert_made_anew(S3Server::corrupt, &[IMAGE, INPUT], &ran);
}
