//! `BuildStream`, which keeps artifacts in a store and finds them by the Remote Asset API.

use bitzel_tests::build_stream::{BuildStream, ELEMENTS};
use bitzel_tests::peers::BUILDSTREAM;
use bitzel_tests::{Server, Site, tree_of};

#[test]
fn artifacts_that_one_pushed_another_with_an_empty_cache_pulls() {
    let Some(program) = BUILDSTREAM.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let server = Server::start(&site);
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
