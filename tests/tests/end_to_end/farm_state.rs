//! State of the farm: `bitzel status`, `bitzel workers drain`, and the external scaler that KEDA asks.

use std::collections::HashMap;

use bitzel_proto::keda::external_scaler_client::ExternalScalerClient;
use bitzel_proto::keda::{GetMetricsRequest, ScaledObjectRef};
use bitzel_tests::{BitzelServer, Site, WorkerProcess, poll_until};
use serde_json::Value;
use tokio::runtime::Runtime;

const RECIPE: &str = r#"
LICENSE = "MIT"
do_install() {
	install -d ${D}${datadir}
	echo observed > ${D}${datadir}/observed
}
"#;

/// Asks the server as KEDA does for the pool `large`, whose workers have two slots: is it active, wanted slots, slots of a
/// worker.
fn ask_scaler(runtime: &Runtime, server: &BitzelServer, idle: &str) -> (bool, f64, f64) {
    let metadata = [("pool", "large"), ("jobs", "2"), ("idle", idle)];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let object = ScaledObjectRef {
        name: "workers".to_owned(),
        namespace: "builds".to_owned(),
        scaler_metadata: HashMap::from(metadata),
    };
    runtime.block_on(async {
        let mut scaler = ExternalScalerClient::connect(server.admin_url())
            .await
            .expect("the admin port answers gRPC");
        let active = scaler.is_active(object.clone()).await.expect("an answer");
        let spec = scaler.get_metric_spec(object.clone()).await.expect("a metric");
        let spec = spec.into_inner().metric_specs.remove(0);
        let request = GetMetricsRequest {
            scaled_object_ref: Some(object),
            metric_name: spec.metric_name,
        };
        let values = scaler.get_metrics(request).await.expect("a value").into_inner();
        (
            active.into_inner().result,
            values.metric_values[0].metric_value_float,
            spec.target_size_float,
        )
    })
}

fn output(site: &Site, subcommand: &str, arguments: &[&str]) -> String {
    let output = site.bitzel(subcommand).args(arguments).output();
    let output = output.expect("bitzel starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_pool_is_asked_for_shown_and_drained() {
    let runtime = Runtime::new().expect("a runtime");
    let (server_site, worker_site, client) = (Site::empty(), Site::empty(), Site::empty());
    let server = BitzelServer::start_with(&server_site, &["--jobs", "0", "--admin", "127.0.0.1:0"]);
    let url = server.url();
    assert_eq!(ask_scaler(&runtime, &server, "0"), (false, 0.0, 2.0));

    client.add_recipe("observed", RECIPE);
    let state = || -> Value {
        let text = output(&server_site, "status", &["--remote", &url, "--json"]);
        serde_json::from_str(&text).expect("JSON")
    };
    let worker = std::thread::scope(|scope| {
        let build = scope.spawn(|| drop(client.build(&["--remote", &url, "observed"]).succeeded()));
        let waiting = poll_until("an Action that waits", || {
            let state = state();
            (state["waiting_actions"] != 0).then(|| state["waiting"][0].clone())
        });
        assert_eq!(waiting["unserved"], true);
        // Nothing is known of the pool, and somebody has to run it.
        let (active, wanted, _) = ask_scaler(&runtime, &server, "0");
        assert!(active && (1.0..=2.0).contains(&wanted), "{wanted}");
        let text = output(&server_site, "status", &["--remote", &url]);
        assert!(text.starts_with("0 workers, 0 of 0 slots in use, "), "{text}");
        assert!(
            text.contains("Action of anonymous; no worker offers ISA="),
            "{text}"
        );
        let arguments = ["--pool", "large", "--jobs", "2"];
        let worker = WorkerProcess::start_with(&worker_site, &url, &arguments);
        build.join().expect("the build ends");
        worker
    });

    let state = state();
    assert_eq!(state["workers"][0]["pool"], "large", "{state}");
    assert_eq!(ask_scaler(&runtime, &server, "0"), (false, 0.0, 2.0));
    assert_eq!(ask_scaler(&runtime, &server, "3"), (true, 6.0, 2.0));
    let drained = output(&server_site, "workers", &["--remote", &url, "drain", "*"]);
    assert!(drained.ends_with(" finishes its Actions and ends\n"), "{drained}");
    assert!(worker.wait().success());
    let list = output(&server_site, "workers", &["--remote", &url]);
    assert_eq!(list, "0 workers, 0 of 0 slots in use, 0 Actions waiting\n");
}
