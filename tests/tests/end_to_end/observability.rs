//! What operators see: metrics, traces, and whether the dashboard asks for metrics that exist.

use std::collections::BTreeSet;
use std::path::Path;

use bitzel_tests::{CollectedSpan, Collector, Server, Site};

const RECIPE: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo observed > ${D}${datadir}/observed
}
"#;

/// The names in a page of metrics, as queries know them.
fn names(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Everything in the dashboard's queries that looks like a metric of ours.
fn names_in_dashboard() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/dashboards/bitzel.json");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("the dashboard is JSON");
    let panels = dashboard["panels"].as_array().expect("the dashboard has panels");
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets
        .map(|target| target["expr"].as_str().expect("a target has a query"))
        .collect();
    assert!(!queries.is_empty());
    queries
        .iter()
        .flat_map(|query| query.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_'))
        .filter(|word| word.starts_with("bitzel_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_dashboard_shows_metrics_that_a_server_has() {
    let server_site = Site::empty();
    let server = Server::start_with(&server_site, &["--admin", "127.0.0.1:0"]);
    let client = Site::empty();
    client.add_recipe("observed", RECIPE);
    drop(client.build(&["--remote", &server.url(), "observed"]).succeeded());
    let page = server.metrics();
    assert!(
        page.contains(r#"bitzel_actions_total{outcome="succeeded"}"#),
        "a build has run:\n{page}"
    );
    // The worker in it counts beside it, as one on another machine does on a page of its own.
    for counter in [
        r#"bitzel_worker_actions_total{outcome="succeeded"}"#,
        r#"bitzel_worker_input_files_total{outcome="fetched"}"#,
        "bitzel_worker_cache_bytes",
    ] {
        assert!(page.contains(counter), "no {counter}:\n{page}");
    }
    let (there, wanted) = (names(&page), names_in_dashboard());
    let lacking: Vec<_> = wanted.difference(&there).collect();
    assert!(lacking.is_empty(), "the server has no {lacking:?}:\n{page}");
}

fn named<'a>(spans: &'a [CollectedSpan], name: &str) -> Vec<&'a CollectedSpan> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[test]
fn a_trace_leads_from_a_build_to_the_server() {
    let collector = Collector::start();
    let url = collector.url();
    let server_site = Site::empty();
    let server = Server::start_with(&server_site, &["--otlp-endpoint", &url]);
    let client = Site::empty();
    client.add_recipe("observed", RECIPE);
    let report = client.build(&["--remote", &server.url(), "--otlp-endpoint", &url, "observed"]);
    drop(report.succeeded());
    drop(server);
    let spans = collector.spans();
    let [build] = named(&spans, "build")[..] else {
        panic!("one build ran: {spans:#?}");
    };
    let [task] = named(&spans, "observed:do_install")[..] else {
        panic!("the task ran once: {spans:#?}");
    };
    assert_eq!((&task.trace, &task.parent), (&build.trace, &build.id));
    let executed = named(&spans, "Execution/Execute")
        .into_iter()
        .find(|span| span.parent == task.id)
        .unwrap_or_else(|| panic!("the task was executed: {spans:#?}"));
    assert_eq!(executed.trace, build.trace);
    let attribute = |name: &str| {
        let found = executed.attributes.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    assert_eq!(attribute("client.tool"), Some("bitzel"));
    assert_eq!(attribute("client.mnemonic"), Some("do_install"));
    assert_eq!(attribute("code"), Some("OK"));
}
