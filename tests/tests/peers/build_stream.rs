//! `BuildStream` as a client: artifacts in the store, found by the Remote Asset API.

use bitzel_tests::build_stream::{BuildStream, ELEMENTS};
use bitzel_tests::peers::BUILDSTREAM;
use bitzel_tests::{BitzelServer, Site, tree_of};

#[test]
fn pushed_artifacts_can_be_pulled_into_an_empty_cache() {
    let Some(program) = BUILDSTREAM.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = BitzelServer::start(&site);
    let url = server.url().replace("grpc://", "http://");
    let first = BuildStream::new(program);
    first.run(&["build", "all.bst"]);
    let remote = format!("--artifact-remote={url}");
    let text = first.run(&["artifact", "push", &remote, "--deps", "all", "all.bst"]);
    assert!(
        text.contains(&format!("Push Queue: processed {ELEMENTS}, skipped 0, failed 0")),
        "{text}"
    );
    let second = first.with_empty_cache();
    let text = second.run(&["artifact", "pull", &remote, "--deps", "all", "all.bst"]);
    assert!(
        text.contains(&format!("Pull Queue: processed {ELEMENTS}, skipped 0, failed 0")),
        "{text}"
    );
    for one in [&first, &second] {
        let output = one.path("output").display().to_string();
        one.run(&["artifact", "checkout", "--directory", &output, "all.bst"]);
    }
    let tree = tree_of(&second.path("output"));
    assert!(tree == tree_of(&first.path("output")), "the artifacts differ");
    assert!(tree.contains_key(std::path::Path::new("usr/share/hello")));
}
