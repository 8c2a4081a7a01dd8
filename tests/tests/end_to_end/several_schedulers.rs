//! Several schedulers on one PostgreSQL: leaders that are killed, hang or lose PostgreSQL.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bitzel_proto::Digest;
use bitzel_proto::google::longrunning::operation;
use bitzel_proto::keda::external_scaler_client::ExternalScalerClient;
use bitzel_proto::keda::{GetMetricsRequest, ScaledObjectRef};
use bitzel_proto::reapi::execution_client::ExecutionClient;
use bitzel_proto::reapi::{ActionResult, ExecuteRequest, ExecuteResponse, execution_stage};
use bitzel_proto::worker::worker_queue_client::WorkerQueueClient;
use bitzel_proto::worker::{
    Completed, Hello, SchedulerMessage, WorkerMessage, scheduler_message, worker_message,
};
use bitzel_rpc::Secret;
use bitzel_rpc::endpoint::{ClientCredentials, connect_with};
use bitzel_tests::{BitzelServer, Site, poll_until, write_certificates};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use super::held_actions::{Runs, assert_succeeded, channel, end, execute, start, upload, wait};
use super::scheduler_group::SchedulerGroup;

/// Promise of `docs/guarantees.md`.
const MAX_FAIL_OVER: Duration = Duration::from_secs(5);

/// Each Action ran once.
fn assert_ran_once(runs: &Runs, names: &[&str]) {
    let once = names.iter().map(|name| ((*name).to_owned(), 1));
    assert_eq!(runs.counts, once.collect::<BTreeMap<_, _>>(), "nothing ran twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_scheduler_follows_a_killed_leader() {
    let Some(mut group) = SchedulerGroup::start_or_skip().await else {
        return;
    };
    let machines = [Site::empty(), Site::empty()];
    let mut runs = Runs::listen().await;
    // One worker is connected to the leader, the other one by the follower.
    let _direct = group.start_worker(&machines[0], "2");
    let mut clients = vec![
        execute(&group.url(), &runs, "a").await,
        execute(&group.url(), &runs, "b").await,
    ];
    let mut running = vec![runs.next().await, runs.next().await];
    group.prefer([1, 0]);
    let _forwarded = group.start_worker(&machines[1], "2");
    for name in ["c", "d", "queued 1", "queued 2", "queued 3", "queued 4"] {
        clients.push(execute(&group.url(), &runs, name).await);
    }
    running.extend([runs.next().await, runs.next().await]);
    let mut names = vec![];
    for client in &mut clients {
        names.push(client.next().await.0.name);
    }

    let killed = Instant::now();
    group.servers[0].kill();
    let mut followed = vec![];
    for name in &names {
        followed.push(wait(&group.url(), name).await.expect("the old name is known"));
    }
    let fail_over = killed.elapsed();
    assert!(fail_over < MAX_FAIL_OVER, "{fail_over:?}");
    let mut stages = vec![];
    for client in &mut followed {
        stages.push(client.next().await.1);
    }
    let executing = [execution_stage::Value::Executing; 4];
    assert_eq!(stages[..4], executing, "the workers go on");
    assert_eq!(stages[4..], [execution_stage::Value::Queued; 4]);

    for (_, run) in running {
        end(run).await;
    }
    for _ in 0..4 {
        end(runs.next().await.1).await;
    }
    for client in &mut followed {
        assert_succeeded(&client.response().await);
    }
    assert_ran_once(
        &runs,
        &["a", "b", "c", "d", "queued 1", "queued 2", "queued 3", "queued 4"],
    );

    // The one that was killed joins again, and takes over from the other one.
    group.restart(0);
    group.servers[1].kill();
    let mut completed = wait(&group.url(), &names[0])
        .await
        .expect("the old name is known");
    assert_succeeded(&completed.response().await);
}

/// The leader is well, and has a free worker that could run the Action a second time.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_twice_when_a_follower_is_lost() {
    let Some(mut group) = SchedulerGroup::start_or_skip().await else {
        return;
    };
    let machines = [Site::empty(), Site::empty()];
    let mut runs = Runs::listen().await;
    group.prefer([1, 0]);
    let _forwarded = group.start_worker(&machines[0], "1");
    let leader = group.servers[0].url();
    let mut first = execute(&leader, &runs, "a").await;
    let run = runs.started("a").await;
    group.prefer([0, 1]);
    let _direct = group.start_worker(&machines[1], "1");
    let mut second = execute(&leader, &runs, "b").await;
    end(runs.started("b").await).await;
    assert_succeeded(&second.response().await);

    group.servers[1].kill();
    // If the free worker had got it, the client would wait for that run, which nobody ends.
    end(run).await;
    assert_succeeded(&first.response().await);
    assert_ran_once(&runs, &["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_ends_hands_over_at_once() {
    let Some(group) = SchedulerGroup::start_or_skip().await else {
        return;
    };
    let machine = Site::empty();
    let mut runs = Runs::listen().await;
    let _worker = group.start_worker(&machine, "1");
    let mut client = execute(&group.url(), &runs, "a").await;
    let name = client.next().await.0.name;
    let run = runs.started("a").await;
    let url = group.url();
    let [leader, _follower] = group.servers;
    drop(leader);
    let mut client = wait(&url, &name).await.expect("the old name is known");
    end(run).await;
    assert_succeeded(&client.response().await);
    assert_ran_once(&runs, &["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_postgresql_is_down() {
    let Some(mut group) = SchedulerGroup::start_or_skip().await else {
        return;
    };
    let machine = Site::empty();
    let mut runs = Runs::listen().await;
    let _worker = group.start_worker(&machine, "1");
    let mut running = execute(&group.url(), &runs, "running").await;
    let running_name = running.next().await.0.name;
    let run = runs.started("running").await;
    let mut queued = execute(&group.url(), &runs, "queued").await;
    let queued_name = queued.next().await.0.name;

    group.postgresql.kill();
    poll_until("nobody leads", || {
        (!group.leads(0) && !group.leads(1)).then_some(())
    });
    let new = upload(&group.url(), &runs, "new").await;
    let new = tokio::spawn(start(channel(&group.url()).await, new));
    // The Action ends while nobody takes its result.
    end(run).await;
    group.postgresql.start();
    let mut new = new.await.unwrap().expect("it waited for a leader");
    let mut running = wait(&group.url(), &running_name)
        .await
        .expect("the old name is known");
    let mut queued = wait(&group.url(), &queued_name)
        .await
        .expect("the old name is known");
    assert_succeeded(&running.response().await);
    end(runs.started("queued").await).await;
    assert_succeeded(&queued.response().await);
    end(runs.started("new").await).await;
    assert_succeeded(&new.response().await);
    assert_ran_once(&runs, &["running", "queued", "new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_postgresql_hangs() {
    let Some(group) = SchedulerGroup::start_or_skip().await else {
        return;
    };
    let machine = Site::empty();
    let mut runs = Runs::listen().await;
    let _worker = group.start_worker(&machine, "1");
    let mut running = execute(&group.url(), &runs, "running").await;
    let name = running.next().await.0.name;
    let run = runs.started("running").await;
    group.postgresql.pause();
    poll_until("nobody leads", || {
        (!group.leads(0) && !group.leads(1)).then_some(())
    });
    // Its client learns that it has to look for another leader.
    let ended = loop {
        match running.try_next().await {
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    group.postgresql.resume();
    // A call that meets the change of leaders is repeated, as every client does.
    let mut running = loop {
        match wait(&group.url(), &name).await {
            Err(status) if status.code() == Code::Unavailable => {}
            found => break found.expect("the old name is known"),
        }
    };
    end(run).await;
    assert_succeeded(&running.response().await);
    assert_ran_once(&runs, &["running"]);
}

/// Worker that implements the protocol and runs nothing.
struct Protocol {
    outbound: mpsc::Sender<WorkerMessage>,
    inbound: Streaming<SchedulerMessage>,
}

impl Protocol {
    async fn connect(url: &str, leases: &[String]) -> Self {
        let (outbound, messages) = mpsc::channel(16);
        let hello = worker_message::Message::Hello(Hello {
            worker_name: "w".to_owned(),
            slots: 2,
            leases: leases.to_vec(),
            instance_secret: b"secret of worker".to_vec(),
            ..Hello::default()
        });
        send(&outbound, hello).await;
        let mut client = WorkerQueueClient::new(channel(url).await);
        let inbound = client
            .work(ReceiverStream::new(messages))
            .await
            .expect("a stream")
            .into_inner();
        Self { outbound, inbound }
    }

    async fn next(&mut self) -> Result<scheduler_message::Message, Status> {
        let message = tokio::time::timeout(Duration::from_mins(1), self.inbound.message()).await;
        let message = message
            .expect("it should have come long ago")?
            .expect("another message");
        Ok(message.message.expect("a message"))
    }

    async fn complete(&self, lease: &str) {
        let completed = worker_message::Message::Completed(Completed {
            lease: lease.to_owned(),
            response: Some(ExecuteResponse {
                result: Some(ActionResult::default()),
                ..ExecuteResponse::default()
            }),
        });
        send(&self.outbound, completed).await;
    }
}

async fn send(outbound: &mpsc::Sender<WorkerMessage>, message: worker_message::Message) {
    let message = Some(message);
    outbound
        .send(WorkerMessage { message })
        .await
        .expect("the stream is open");
}

/// Executes an Action, and again whenever the scheduler that leads is gone, as clients do. A call waits for the next one.
/// Returns the name of the last operation, and the response.
async fn execute_until_done(server: Channel, action: Digest) -> (String, ExecuteResponse) {
    loop {
        match execute_once(server.clone(), action).await {
            Ok(done) => return done,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    }
}

async fn execute_once(server: Channel, action: Digest) -> Result<(String, ExecuteResponse), Status> {
    let mut operations = start(server, action).await?;
    loop {
        let (operation, _) = operations.try_next().await?;
        if let Some(operation::Result::Response(response)) = operation.result {
            let response = ExecuteResponse::decode(response.value.as_slice()).expect("a response");
            return Ok((operation.name, response));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deposed_leader_acknowledges_and_assigns_nothing() {
    let Some(group) = SchedulerGroup::start_or_skip().await else {
        return;
    };
    let runs = Runs::listen().await;
    let [old, new] = group.servers.each_ref().map(BitzelServer::url);
    let mut client = execute(&old, &runs, "a").await;
    let mut worker = Protocol::connect(&old, &[]).await;
    let name = client.next().await.0.name;
    let Ok(scheduler_message::Message::Assign(assign)) = worker.next().await else {
        panic!("no assignment");
    };
    let other = upload(&old, &runs, "b").await;
    let late_connection = channel(&old).await;

    group.servers[0].pause();
    // These wait in the sockets of the leader, which has a free slot for the second Action.
    worker.complete(&assign.lease).await;
    let late = tokio::spawn(execute_until_done(late_connection, other));
    group.wait_for_leader(1);
    group.servers[0].resume();

    let shown = worker.next().await;
    assert_eq!(
        shown.expect_err("a message of a deposed leader").code(),
        Code::Unavailable
    );
    let ended = loop {
        match client.try_next().await {
            Ok((operation, _)) => assert!(!operation.done, "an outcome that no leader knows"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");

    // The new leader has the operation, and adopts the lease; the late request is its own.
    let mut worker = Protocol::connect(&new, std::slice::from_ref(&assign.lease)).await;
    worker.complete(&assign.lease).await;
    let mut client = wait(&new, &name).await.expect("the old name is known");
    let mut seen = vec![];
    while seen.len() < 2 {
        seen.push(match worker.next().await.expect("a message") {
            scheduler_message::Message::Acknowledged(acknowledged) => {
                assert_eq!(acknowledged.lease, assign.lease);
                "acknowledged"
            }
            scheduler_message::Message::Assign(second) => {
                worker.complete(&second.lease).await;
                "assigned"
            }
            other => panic!("{other:?}"),
        });
    }
    seen.sort_unstable();
    assert_eq!(seen, ["acknowledged", "assigned"]);
    assert_succeeded(&client.response().await);
    let (late_name, response) = late.await.unwrap();
    wait(&new, &late_name).await.expect("the new leader has it");
    assert_succeeded(&response);
}

const ACCESS: &str = r#"servers_ca = "ca.pem"
[tls]
certificate = "server.pem"
key = "server.key"
client_ca = "ca.pem"
[access]
passwords = "passwords"
[[access.rules]]
identities = ["ci"]
methods = ["password", "certificate"]
allow = ["read", "execute", "network"]
[[access.rules]]
identities = ["dev"]
methods = ["password"]
allow = ["read"]
"#;
/// Of the password `secret`.
const PASSWORD_HASH: &str = "$2b$04$YtzLcpYmRMvefafpPrGd1uj9pQMBU2y2qMkJSW3YMv17rZ1H9gWRy";

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_call_has_the_rights_of_its_caller() {
    let certificates = Site::empty();
    write_certificates(&certificates);
    let prepare = |site: &Site| {
        for name in ["ca.pem", "server.pem", "server.key"] {
            std::fs::copy(certificates.path(name), site.path(name)).expect("a copy");
        }
        let passwords = ["ci", "dev"].map(|user| format!("{user}:{PASSWORD_HASH}\n"));
        std::fs::write(site.path("passwords"), passwords.concat()).expect("passwords");
    };
    let Some(group) = SchedulerGroup::start_with(ACCESS, prepare).await else {
        return;
    };
    let runs = Runs::listen().await;
    let action = upload(&group.store_url(), &runs, "a").await;
    let follower = format!("grpcs://{}", group.servers[1].address());
    let anonymous = ClientCredentials {
        ca: Some(certificates.path("ca.pem")),
        ..ClientCredentials::default()
    };
    let with_password = |user: &str| ClientCredentials {
        password: Some((user.to_owned(), Secret::new("secret"))),
        ..anonymous.clone()
    };
    let with_certificate = ClientCredentials {
        certificate: Some((certificates.path("client.pem"), certificates.path("client.key"))),
        ..anonymous.clone()
    };
    let execute = async |credentials: &ClientCredentials| {
        let channel = connect_with(&follower, credentials).await.expect("a connection");
        let request = ExecuteRequest {
            action_digest: Some(action.to_wire()),
            digest_function: action.function().to_wire(),
            ..ExecuteRequest::default()
        };
        let mut stream = ExecutionClient::new(channel).execute(request).await?.into_inner();
        Ok::<_, Status>(stream.message().await?.expect("an operation").name)
    };
    let names = [
        execute(&with_password("ci")).await.expect("ci may execute"),
        execute(&with_certificate).await.expect("ci may execute"),
    ];
    assert_eq!(names[0], names[1], "equal Actions are one operation");
    let refused = execute(&with_password("dev"))
        .await
        .expect_err("dev may not execute");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    let refused = execute(&anonymous)
        .await
        .expect_err("nobody may execute without credentials");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");

    // The Action waits at the leader. KEDA asks any server, on its admin port, and nobody else gets an answer.
    assert!(group.leads(0));
    for server in &group.servers {
        let mut scaler = ExternalScalerClient::connect(server.admin_url())
            .await
            .expect("the admin port answers gRPC");
        let active = scaler.is_active(pool()).await.expect("an answer");
        assert!(active.into_inner().result);
        let request = GetMetricsRequest {
            scaled_object_ref: Some(pool()),
            metric_name: String::new(),
        };
        let values = scaler.get_metrics(request).await.expect("a value").into_inner();
        // It waits for two users, and one worker has to come first.
        assert_eq!(values.metric_values[0].metric_value, 2);
        let spec = scaler
            .get_metric_spec(pool())
            .await
            .expect("a metric")
            .into_inner();
        assert_eq!(spec.metric_specs[0].target_size, 2);
    }
    let leader = format!("grpcs://{}", group.servers[0].address());
    let channel = connect_with(&leader, &with_password("ci"))
        .await
        .expect("a connection");
    let mut scaler = ExternalScalerClient::new(channel);
    let refused = scaler
        .is_active(pool())
        .await
        .expect_err("it is for servers of the group");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
}

/// Pool that no worker has registered for, as KEDA asks for it.
fn pool() -> ScaledObjectRef {
    let metadata = [("pool", "large"), ("jobs", "2")];
    let metadata = metadata.map(|(name, value)| (name.to_owned(), value.to_owned()));
    ScaledObjectRef {
        scaler_metadata: metadata.into(),
        ..ScaledObjectRef::default()
    }
}

/// By hand: `cargo nextest run -p bitzel-tests --test end_to_end --run-ignored only -E 'test(twenty_leaders)'` prints the
/// time from the kill of a leader until the next one has given an Action to a worker that runs it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of some minutes"]
async fn twenty_leaders_are_killed_under_load() {
    let Some(mut group) = SchedulerGroup::start_or_skip().await else {
        return;
    };
    let machines = [Site::empty(), Site::empty()];
    let _workers = machines
        .each_ref()
        .map(|machine| group.start_worker(machine, "4"));
    let mut times = vec![];
    let mut runs = Runs::listen().await;
    for round in 0..20 {
        let leader = round % 2;
        assert!(group.leads(leader));
        // The load: Actions that run over the kill, and more that wait.
        let mut clients = vec![];
        for number in 0..16 {
            clients.push(execute(&group.url(), &runs, &format!("{round}-{number}")).await);
        }
        let mut names = vec![];
        for client in &mut clients {
            names.push(client.next().await.0.name);
        }
        let mut running = vec![];
        for _ in 0..8 {
            running.push(runs.next().await.1);
        }
        group.prefer([1 - leader, leader]);
        let killed = Instant::now();
        group.servers[leader].kill();
        // Slots are free: what starts next is the first lease of the next leader.
        for run in running {
            end(run).await;
        }
        let first = runs.next().await;
        times.push(killed.elapsed());
        end(first.1).await;
        for _ in 0..7 {
            end(runs.next().await.1).await;
        }
        for name in &names {
            let mut client = wait(&group.url(), name).await.expect("the old name is known");
            assert_succeeded(&client.response().await);
        }
        group.restart(leader);
    }
    assert!(
        runs.counts.values().all(|count| *count == 1),
        "nothing ran twice: {:?}",
        runs.counts
    );
    times.sort_unstable();
    println!(
        "{} leaders killed: p50 {:?}, worst {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );
}
