//! `bitzel serve` that is killed and started again, with workers and clients of its own processes.

use std::collections::BTreeMap;

use bitzel_proto::reapi::execution_stage;
use bitzel_tests::{BitzelServer, Site, WorkerProcess};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::held_actions::{Runs, assert_succeeded, end, execute, wait};

/// Arguments of workers. Their Actions connect to the test on loopback.
const WORKER_ARGUMENTS: [&str; 4] = ["--jobs", "1", "--action-network", "host"];

#[tokio::test(flavor = "multi_thread")]
async fn running_and_queued_actions_survive_the_server() {
    let (site, machine) = (Site::empty(), Site::empty());
    let arguments = ["--jobs", "0"];
    let mut server = BitzelServer::start_with(&site, &arguments);
    let _worker = WorkerProcess::start_with(&machine, &server.url(), &WORKER_ARGUMENTS);
    let mut runs = Runs::listen().await;

    let mut running = execute(&server.url(), &runs, "running").await;
    let running_name = running.next().await.0.name;
    let run = runs.started("running").await;
    let mut queued = execute(&server.url(), &runs, "queued").await;
    let queued_name = queued.next().await.0.name;

    server.kill_and_restart(&site, &arguments);
    let mut running = wait(&server.url(), &running_name)
        .await
        .expect("the old name is known");
    assert_eq!(running.next().await.1, execution_stage::Value::Executing);
    let mut queued = wait(&server.url(), &queued_name)
        .await
        .expect("the old name is known");
    assert_eq!(queued.next().await.1, execution_stage::Value::Queued);

    end(run).await;
    assert_succeeded(&running.response().await);
    end(runs.started("queued").await).await;
    assert_succeeded(&queued.response().await);
    let once = [("queued", 1), ("running", 1)].map(|(name, count)| (name.to_owned(), count));
    assert_eq!(runs.counts, BTreeMap::from(once), "nothing ran twice");

    server.kill_and_restart(&site, &arguments);
    let mut completed = wait(&server.url(), &running_name)
        .await
        .expect("the old name is known");
    assert_succeeded(&completed.response().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_during_the_outage_is_delivered_later() {
    let (site, machine) = (Site::empty(), Site::empty());
    let arguments = ["--jobs", "0"];
    let mut server = BitzelServer::start_with(&site, &arguments);
    let _worker = WorkerProcess::start_with(&machine, &server.url(), &WORKER_ARGUMENTS);
    let mut runs = Runs::listen().await;
    let mut operations = execute(&server.url(), &runs, "a").await;
    let name = operations.next().await.0.name;
    let mut run = runs.started("a").await;

    server.kill();
    run.write_all(b".").await.unwrap();
    // The command has ended when its connection has.
    assert_eq!(run.read(&mut [0]).await.unwrap(), 0);
    server.kill_and_restart(&site, &arguments);
    let mut operations = wait(&server.url(), &name).await.expect("the old name is known");
    assert_succeeded(&operations.response().await);
    assert_eq!(runs.counts["a"], 1, "nothing ran twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_whose_worker_is_gone_runs_again() {
    let (site, machine) = (Site::empty(), Site::empty());
    let configuration = site.path("server.toml");
    std::fs::write(&configuration, "[execution]\nreconnect_timeout = \"1s\"\n").unwrap();
    let configuration = configuration.display().to_string();
    let arguments = ["--jobs", "0", "--config", &configuration];
    let mut server = BitzelServer::start_with(&site, &arguments);
    let worker = WorkerProcess::start_with(&machine, &server.url(), &WORKER_ARGUMENTS);
    let mut runs = Runs::listen().await;
    let mut operations = execute(&server.url(), &runs, "a").await;
    let name = operations.next().await.0.name;
    let lost = runs.started("a").await;

    server.kill();
    worker.kill();
    drop(lost);
    server.kill_and_restart(&site, &arguments);
    let mut operations = wait(&server.url(), &name).await.expect("the old name is known");
    let other_machine = Site::empty();
    let _other = WorkerProcess::start_with(&other_machine, &server.url(), &WORKER_ARGUMENTS);
    end(runs.started("a").await).await;
    assert_succeeded(&operations.response().await);
    assert_eq!(runs.counts["a"], 2);
}
