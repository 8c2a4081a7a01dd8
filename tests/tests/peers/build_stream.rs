//! `BuildStream` as a client: artifacts in the store, found by the Remote Asset API, and remote execution.

use bitzel_tests::build_stream::{BuildStream, ELEMENTS};
use bitzel_tests::peers::{BUILDSTREAM, BUSYBOX};
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

/// Elements of `BuildStream` bring their root file system as their input root, and the client has no way to say so.
const MAPPING: &str = "[[execution.platform_mappings]]\nto = { root-image = \"input-root\" }\n";

#[test]
fn elements_are_built_remotely_in_their_own_root() {
    let (Some(program), Some(busybox)) = (BUILDSTREAM.program_or_skip(), BUSYBOX.program_or_skip()) else {
        return;
    };
    let site = Site::empty();
    let configuration = site.path("server.toml");
    std::fs::write(&configuration, MAPPING).expect("a configuration file");
    let configuration = configuration.to_str().expect("a path");
    let arguments = ["--config", configuration, "-j1", "--admin", "127.0.0.1:0"];
    let server = BitzelServer::start_with(&site, &arguments);
    let url = server.url().replace("grpc://", "http://");
    for run in 1..=2 {
        // The second time with an empty local cache: the result comes from the action cache.
        let project = BuildStream::with_remote_execution(program.clone(), &busybox, &url);
        project.run(&["build", "made.bst"]);
        let output = project.path("output").display().to_string();
        project.run(&[
            "artifact",
            "checkout",
            "--deps",
            "none",
            "--directory",
            &output,
            "made.bst",
        ]);
        let tree = tree_of(&project.path("output"));
        let files: Vec<_> = tree
            .keys()
            .filter(|path| project.path("output").join(path).is_file())
            .collect();
        assert_eq!(files, [std::path::Path::new("usr/share/result")], "run {run}");
    }
    let metrics = server.metrics();
    let actions: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("bitzel_actions_total"))
        .collect();
    assert_eq!(
        actions.len(),
        2,
        "one Action ran, and its result was found: {actions:?}"
    );
    assert!(actions.iter().all(|line| line.ends_with(" 1")), "{actions:?}");
}
