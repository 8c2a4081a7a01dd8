//! Pants as a client: remote execution, and its results in the action cache.

use bitzel_tests::pants::{CONTAINER_IMAGE, Pants};
use bitzel_tests::peers::PANTS;
use bitzel_tests::{BitzelServer, Site, WorkerProcess};

const RESULT: &str = "source, made at the farm\n";

#[test]
fn pants_builds_remotely_and_finds_its_results() {
    let Some(program) = PANTS.program_or_skip() else {
        return;
    };
    let site = Site::empty();
    let configuration = site.path("server.toml");
    let mapping =
        format!("[[execution.platform_mappings]]\nfrom = {{ container-image = \"{CONTAINER_IMAGE}\" }}\n");
    std::fs::write(&configuration, mapping).expect("a configuration file");
    let configuration = configuration.to_str().expect("a path");
    let arguments = ["--config", configuration, "--admin", "127.0.0.1:0"];
    let mut server = BitzelServer::start_with(&site, &arguments);
    let worker_site = Site::empty();
    let worker = WorkerProcess::start(&worker_site, &server.url());
    let pants = Pants::new(program, &server.url());

    let first = pants.build();
    assert_eq!(first.result, RESULT, "{}", first.text);
    let executed = first.counter("remote_execution_success");
    assert!(executed > Some(0), "{}", first.text);
    assert_eq!(
        first.counter("remote_execution_errors"),
        Some(0),
        "{}",
        first.text
    );
    // Pants probes for its shell, too, so there are some Actions more than the target has.
    let actions = format!(
        "bitzel_actions_total{{outcome=\"succeeded\"}} {}",
        executed.unwrap_or(0)
    );
    let metrics = server.metrics();
    assert!(
        metrics.lines().any(|line| line == actions),
        "{actions}:\n{metrics}"
    );

    // Pants looks a result up and asks for its execution at the same time. Without a worker only the cache answers.
    drop(worker);
    pants.remove_local_state();
    let second = pants.build();
    assert_eq!(second.result, RESULT, "{}", second.text);
    assert_eq!(
        second.counter("remote_cache_requests_cached"),
        executed,
        "{}",
        second.text
    );
    assert_eq!(
        second.counter("remote_execution_success"),
        Some(0),
        "{}",
        second.text
    );
    // A server that is asked to end waits for Actions that wait for a worker.
    server.kill();
}
