//! Metrics and traces, and the metrics that the dashboard queries.

use std::collections::BTreeSet;
use std::path::Path;

use bitzel_tests::{BitzelServer, CollectedSpan, Collector, Site};

const RECIPE: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo observed > ${D}${datadir}/observed
}
"#;

/// Names of metrics in a page of metrics.
fn metric_names(page: &str) -> BTreeSet<String> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Names of bitzel's metrics in the queries of the dashboard.
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
fn a_server_has_all_metrics_of_the_dashboard() {
    let server_site = Site::empty();
    let server = BitzelServer::start_with(&server_site, &["--admin", "127.0.0.1:0"]);
    let client = Site::empty();
    client.add_recipe("observed", RECIPE);
    drop(client.build(&["--remote", &server.url(), "observed"]).succeeded());
    let page = server.metrics();
    assert!(
        page.contains(r#"bitzel_actions_total{outcome="succeeded"}"#),
        "a build has run:\n{page}"
    );
    // Metrics of the worker inside the server; a worker on another machine has its own page.
    for counter in [
        r#"bitzel_worker_actions_total{outcome="succeeded"}"#,
        r#"bitzel_worker_input_files_total{outcome="fetched"}"#,
        "bitzel_worker_cache_bytes",
    ] {
        assert!(page.contains(counter), "no {counter}:\n{page}");
    }
    let (present, wanted) = (metric_names(&page), names_in_dashboard());
    let lacking: Vec<_> = wanted.difference(&present).collect();
    assert!(lacking.is_empty(), "the server has no {lacking:?}:\n{page}");
}

fn spans_named<'a>(spans: &'a [CollectedSpan], name: &str) -> Vec<&'a CollectedSpan> {
    spans.iter().filter(|span| span.name == name).collect()
}

#[test]
fn a_trace_leads_from_the_build_to_the_server() {
    let collector = Collector::start();
    let url = collector.url();
    let server_site = Site::empty();
    let server = BitzelServer::start_with(&server_site, &["--otlp-endpoint", &url]);
    let client = Site::empty();
    client.add_recipe("observed", RECIPE);
    let report = client.build(&["--remote", &server.url(), "--otlp-endpoint", &url, "observed"]);
    drop(report.succeeded());
    drop(server);
    let spans = collector.spans();
    let [build] = spans_named(&spans, "build")[..] else {
        panic!("one build ran: {spans:#?}");
    };
    let [task] = spans_named(&spans, "observed:do_install")[..] else {
        panic!("the task ran once: {spans:#?}");
    };
    assert_eq!((&task.trace, &task.parent), (&build.trace, &build.id));
    let executed = spans_named(&spans, "Execution/Execute")
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
