//! Builds of two tenants on one server.

use bitzel_tests::{BitzelServer, BuildReport, Site};

const RECIPE: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo apart > ${D}${datadir}/apart
}
"#;

/// Builds the recipe on an empty site.
fn build(server: &BitzelServer, instance: &str) -> BuildReport {
    let client = Site::empty();
    client.add_recipe("apart", RECIPE);
    let url = server.url();
    client
        .build(&["--remote", &url, "--instance", instance, "apart"])
        .succeeded()
}

/// The second tenant has to send everything itself, and runs all tasks on a worker that has their inputs already.
#[test]
fn f12_two_tenants_build_the_same_apart() {
    let site = Site::empty();
    let config = site.path("bitzel.toml");
    std::fs::write(&config, "[tenants]\n").expect("a configuration file");
    let server = BitzelServer::start_with(&site, &["--config", &config.display().to_string()]);
    let first = build(&server, "one");
    assert!(first.tasks("ran").contains("apart:do_install"));
    let other = build(&server, "other");
    assert_eq!(other.tasks("ran"), first.tasks("ran"));
    let [sent, sent_again] = [&first, &other].map(|report| report.summary("bytes_uploaded"));
    // Times in what is sent make small differences.
    assert!(
        sent_again > sent / 2,
        "{sent_again} bytes, {sent} by the first one"
    );
    let again = build(&server, "other");
    assert!(again.tasks("ran").is_empty(), "{:?}", again.tasks("ran"));
}
