//! Builds with a remote server.

use std::collections::BTreeSet;

use bitzel_tests::{BitzelServer, Site, cold_build, tree_of};

#[test]
fn a_wiped_client_gets_everything_from_the_store() {
    let store = Site::with_results_of_cold_build();
    let server = BitzelServer::start(&store);
    let client = Site::empty();
    let output = client.path("output");
    let report = client
        .build(&[
            "--remote",
            &server.url(),
            "--output",
            &output.display().to_string(),
            "demo-image",
        ])
        .succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
    assert_eq!(report.summary("tasks_run"), 0);
    assert!(report.summary("bytes_downloaded") > 0);
    assert!(
        tree_of(&output) == tree_of(&cold_build().output),
        "the outputs of the two clients differ"
    );
}

#[test]
fn two_clients_share_results_on_one_server() {
    let server_site = Site::empty();
    let server = BitzelServer::start(&server_site);
    let recipe = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo shared > ${D}${datadir}/shared
}
"#;
    let first = Site::empty();
    first.add_recipe("shared", recipe);
    let report = first.build(&["--remote", &server.url(), "shared"]).succeeded();
    assert!(report.tasks("ran").contains("shared:do_install"));
    let second = Site::empty();
    second.add_recipe("shared", recipe);
    let report = second.build(&["--remote", &server.url(), "shared"]).succeeded();
    assert_eq!(report.tasks("ran"), BTreeSet::new());
}
