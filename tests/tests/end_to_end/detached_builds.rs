//! Builds that are handed over to a server: `bitzel build --detach`, `attach`, `cancel` and `builds`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use bitzel_tests::{BitzelServer, ObservedProcess, Site, WorkerProcess, poll_until, text_of, tree_of};
use serde_json::Value;

use super::scheduler_group::SchedulerGroup;

/// Text of a recipe whose `do_compile` waits until the test ends a process of it.
fn gated(marker: &str, depends: &str) -> String {
    format!(
        r#"
LICENSE = "MIT"
DEPENDS = "{depends}"
do_compile() {{
	echo gated > {marker}
	tail -f {marker} || true
}}
do_install() {{
	install -d ${{D}}${{datadir}}
	echo ${{PN}} > ${{D}}${{datadir}}/${{PN}}
}}
"#
    )
}

/// Text of a recipe that installs one file.
fn plain(depends: &str) -> String {
    format!(
        r#"
LICENSE = "MIT"
DEPENDS = "{depends}"
do_install() {{
	install -d ${{D}}${{datadir}}
	echo ${{PN}} > ${{D}}${{datadir}}/${{PN}}
}}
"#
    )
}

/// A task that runs until it is released.
struct Gate {
    marker: String,
}

impl Gate {
    fn new(test: &str) -> Self {
        // Unique among all runs of these tests on this machine.
        let marker = format!("gate-{test}-{}", std::process::id());
        Self { marker }
    }

    fn process(&self) -> Option<ObservedProcess> {
        ObservedProcess::find(&format!("tail\0-f\0{}", self.marker))
    }

    /// Waits until the task runs.
    fn closed(&self) -> ObservedProcess {
        poll_until("the gated task runs", || self.process())
    }
}

/// Clients of one server.
struct Client<'a> {
    site: &'a Site,
    url: String,
}

impl<'a> Client<'a> {
    fn new(site: &'a Site, url: impl Into<String>) -> Self {
        let url = url.into();
        Self { site, url }
    }

    /// Hands a build over, and returns its name.
    fn detach(&self, arguments: &[&str]) -> String {
        let mut command = self.site.bitzel("build");
        command
            .args(self.site.build_directory_arguments())
            .args(["--remote", &self.url, "--detach"])
            .args(arguments);
        let output = command.output().expect("bitzel starts");
        assert!(output.status.success(), "{}", text_of(&output));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    fn run(&self, subcommand: &str, arguments: &[&str]) -> Output {
        let mut command = self.site.bitzel(subcommand);
        let output = command.args(["--remote", &self.url]).args(arguments).output();
        output.expect("bitzel starts")
    }

    /// The builds as `bitzel builds` lists them.
    fn builds(&self) -> Vec<Value> {
        let output = self.run("builds", &["--json"]);
        assert!(output.status.success(), "{}", text_of(&output));
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        json["builds"].as_array().expect("a list").clone()
    }

    /// Attaches in the background.
    fn attach(&self, arguments: &[&str]) -> Attached {
        let events = self.site.path("attached.jsonl");
        let mut command: Command = self.site.bitzel("attach");
        command
            .args(["--remote", &self.url, "--events"])
            .arg(&events)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Attached {
            process: command.spawn().expect("bitzel starts"),
            events,
        }
    }
}

/// A running `bitzel attach`.
struct Attached {
    process: Child,
    events: PathBuf,
}

impl Attached {
    /// Waits until an event of this task is shown.
    fn wait_for(&self, event: &str, recipe: &str, task: &str) {
        self.wait_for_count(1, event, recipe, task);
    }

    /// Waits until the client is attached to the second walk of the build, and shows this task as started again. A client
    /// pauses for seconds between its attempts to connect: if the build ended meanwhile, it would get the summary alone.
    fn wait_for_second_walk(&self, recipe: &str, task: &str) {
        self.wait_for_count(2, "task_started", recipe, task);
    }

    fn wait_for_count(&self, count: usize, event: &str, recipe: &str, task: &str) {
        poll_until(&format!("{event} of {recipe}:{task}, {count} times"), || {
            let events = events(&self.events);
            let found = events
                .iter()
                .filter(|line| line["event"] == event && line["recipe"] == recipe && line["task"] == task);
            (found.count() >= count).then_some(())
        });
    }

    fn end(self) -> (Output, Vec<Value>) {
        let output = self.process.wait_with_output().expect("bitzel ends");
        (output, events(&self.events))
    }

    /// Waits for the end of a build that succeeds, and returns the events that were shown.
    fn succeeded(self) -> Vec<Value> {
        let (output, events) = self.end();
        assert!(output.status.success(), "{}", text_of(&output));
        events
    }
}

fn events(path: &Path) -> Vec<Value> {
    // The last line may not be whole.
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

fn finished(events: &[Value], outcome: &str) -> Vec<String> {
    let finished = events
        .iter()
        .filter(|event| event["event"] == "task_finished" && event["outcome"] == outcome);
    let mut names: Vec<String> = finished
        .map(|event| {
            let text = |name: &str| event[name].as_str().expect("a text").to_owned();
            format!("{}:{}", text("recipe"), text("task"))
        })
        .collect();
    names.sort();
    names
}

/// Numbers of Actions by outcome, as the metrics have them.
fn actions(server: &BitzelServer) -> BTreeMap<String, u64> {
    let metrics = server.metrics();
    let lines = metrics.lines().filter_map(|line| {
        let (outcome, number) = line
            .strip_prefix("bitzel_actions_total{outcome=\"")?
            .split_once("\"} ")?;
        Some((outcome.to_owned(), number.parse().expect("a number")))
    });
    lines.collect()
}

#[test]
fn another_client_shows_the_build_and_places_its_output() {
    let (server_site, owner_site, other) = (Site::empty(), Site::empty(), Site::empty());
    let server = BitzelServer::start_with(&server_site, &["--jobs", "2"]);
    let gate = Gate::new("shown");
    owner_site.add_recipe("gated", &gated(&gate.marker, ""));
    let (owner, other_client) = (
        Client::new(&owner_site, server.url()),
        Client::new(&other, server.url()),
    );
    let build = owner.detach(&["gated"]);
    let closed = gate.closed();

    let listed = other_client.builds();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert_eq!(listed[0]["id"], build.as_str());
    assert_eq!(listed[0]["state"], "RUNNING");
    assert_eq!(listed[0]["targets"][0], "gated");
    let status = text_of(&other_client.run("status", &[]));
    assert!(
        status.contains("builds:") && status.contains(&build[..8]),
        "{status}"
    );

    let output = other.path("output");
    let output_argument = output.display().to_string();
    // By the start of its name, and without a name: anonymous callers are one user.
    let attached = other_client.attach(&[&build[..8], "--output", &output_argument]);
    attached.wait_for("task_started", "gated", "do_compile");
    closed.kill();
    let shown = attached.succeeded();
    let ran = finished(&shown, "ran");
    assert!(ran.contains(&"gated:do_compile".to_owned()), "{ran:?}");
    let local = owner_site.path("output").display().to_string();
    let report = owner_site.build(&["--remote", &owner.url, "--output", &local, "gated"]);
    drop(report.succeeded());
    let placed = tree_of(&output);
    assert!(
        placed.keys().any(|path| path.ends_with("gated.tar")),
        "{:?}",
        placed.keys()
    );
    assert_eq!(placed, tree_of(Path::new(&local)), "as without a hand-over");

    let late = other_client.attach(&[]).succeeded();
    assert_eq!(late.last().expect("a summary")["tasks_run"], ran.len());
    assert_eq!(other_client.builds()[0]["state"], "SUCCEEDED");
}

#[test]
fn a_build_survives_the_server_that_is_killed() {
    let (server_site, machine, owner) = (Site::empty(), Site::empty(), Site::empty());
    let arguments = ["--jobs", "0"];
    let mut server = BitzelServer::start_with(&server_site, &arguments);
    let _worker = WorkerProcess::start_with(&machine, &server.url(), &["--jobs", "2"]);
    let gate = Gate::new("killed");
    owner.add_recipe("gated", &gated(&gate.marker, ""));
    let client = Client::new(&owner, server.url());
    let build = client.detach(&["gated"]);
    let closed = gate.closed();
    let attached = client.attach(&[&build]);
    attached.wait_for("task_started", "gated", "do_compile");

    server.kill_and_restart(&server_site, &arguments);
    attached.wait_for_second_walk("gated", "do_compile");
    // If it ran a second time, another process would have to be ended too.
    closed.kill();
    let shown = attached.succeeded();
    let hits = finished(&shown, "hit");
    assert!(!hits.is_empty(), "what was finished is found: {shown:?}");
    assert!(gate.process().is_none(), "nothing ran twice");

    server.kill_and_restart(&server_site, &arguments);
    assert_eq!(client.builds()[0]["state"], "SUCCEEDED", "the end is known too");
    let late = client.attach(&[&build]).succeeded();
    assert_eq!(late.last().expect("a summary")["event"], "summary");
}

#[test]
fn a_cancelled_build_leaves_no_processes() {
    let (server_site, owner) = (Site::empty(), Site::empty());
    let server = BitzelServer::start_with(&server_site, &["--jobs", "2"]);
    let gate = Gate::new("cancelled");
    owner.add_recipe("gated", &gated(&gate.marker, ""));
    let client = Client::new(&owner, server.url());
    let build = client.detach(&["gated"]);
    let closed = gate.closed();
    let attached = client.attach(&[&build]);
    attached.wait_for("task_started", "gated", "do_compile");

    let cancelled = client.run("cancel", &[&build[..8]]);
    let text = text_of(&cancelled);
    assert!(
        cancelled.status.success() && text.contains("is cancelled"),
        "{text}"
    );
    closed.wait_for_end();
    let (output, _) = attached.end();
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    assert!(text_of(&output).contains("was cancelled"), "{}", text_of(&output));
    assert_eq!(client.builds()[0]["state"], "CANCELLED");
    let unknown = client.run("cancel", &["ffffffffffff"]);
    assert!(
        !unknown.status.success() && text_of(&unknown).contains("there is no build ffffffffffff"),
        "{}",
        text_of(&unknown)
    );
}

#[test]
fn overlapping_builds_run_each_task_once() {
    let (server_site, one, two) = (Site::empty(), Site::empty(), Site::empty());
    let server = BitzelServer::start_with(&server_site, &["--jobs", "2", "--admin", "127.0.0.1:0"]);
    let gate = Gate::new("overlapping");
    for site in [&one, &two] {
        site.add_recipe("low", &gated(&gate.marker, ""));
        for name in ["first", "second"] {
            site.add_recipe(name, &plain("low"));
        }
    }
    let (one, two) = (Client::new(&one, server.url()), Client::new(&two, server.url()));
    let first = one.detach(&["first"]);
    let closed = gate.closed();
    let second = two.detach(&["second"]);
    let attached = two.attach(&[&second]);
    attached.wait_for("task_started", "low", "do_compile");
    closed.kill();
    let second = attached.succeeded();
    let first = one.attach(&[&first]).succeeded();
    assert!(gate.process().is_none(), "it does not run again");
    let mut tasks = finished(&first, "ran");
    tasks.extend(finished(&second, "ran"));
    tasks.sort();
    tasks.dedup();
    assert!(tasks.iter().any(|task| task == "first:do_install"), "{tasks:?}");
    assert!(tasks.iter().any(|task| task == "second:do_install"), "{tasks:?}");
    let actions = actions(&server);
    assert_eq!(
        actions.get("succeeded"),
        Some(&(tasks.len() as u64)),
        "{actions:?}"
    );
}

#[test]
fn a_lost_input_runs_its_producer_again() {
    let (server_site, owner) = (Site::empty(), Site::empty());
    let machines = [Site::empty(), Site::empty()];
    let server = BitzelServer::start_with(&server_site, &["--jobs", "0"]);
    let worker = WorkerProcess::start_with(&machines[0], &server.url(), &["--jobs", "1"]);
    let gate = Gate::new("lost");
    // Too large for a segment of the store, so that it is a file of its own.
    owner.add_recipe(
        "low",
        "LICENSE = \"MIT\"\ndo_install() {\n\tinstall -d ${D}${includedir}\n\thead -c 9000000 /dev/zero | \
         tr '\\\\0' 'x' > ${D}${includedir}/large.h\n}\n",
    );
    owner.add_recipe("middle", &gated(&gate.marker, "low"));
    owner.add_recipe("high", &plain("middle low"));
    let client = Client::new(&owner, server.url());
    let build = client.detach(&["high"]);
    let attached = client.attach(&[&build]);
    let closed = gate.closed();

    let large = large_files(&server_site.cache());
    assert!(!large.is_empty(), "the store has a large file");
    for path in &large {
        std::fs::remove_file(path).expect("a blob of the store");
    }
    // Another machine, whose file cache does not have it.
    worker.kill();
    closed.wait_for_end();
    let _worker = WorkerProcess::start_with(&machines[1], &server.url(), &["--jobs", "1"]);
    let closed = poll_until("the gate is closed again, or its inputs are missed", || {
        gate.process()
    });
    closed.kill();
    let shown = attached.succeeded();
    let ran = finished(&shown, "ran");
    let runs = ran.iter().filter(|task| *task == "low:do_install").count();
    assert_eq!(runs, 2, "{ran:?}");
}

/// Files larger than the segments' limit.
fn large_files(directory: &Path) -> Vec<PathBuf> {
    let entries = walkdir::WalkDir::new(directory)
        .into_iter()
        .filter_map(Result::ok);
    let large = entries.filter(|entry| {
        let metadata = entry.metadata().expect("metadata");
        metadata.is_file() && metadata.len() == 9_000_000
    });
    large.map(|entry| entry.path().to_owned()).collect()
}

#[test]
fn a_failed_build_tells_why_after_a_restart() {
    let (server_site, owner) = (Site::empty(), Site::empty());
    let arguments = ["--jobs", "2"];
    let mut server = BitzelServer::start_with(&server_site, &arguments);
    owner.add_recipe(
        "broken",
        "LICENSE = \"MIT\"\ndo_compile() {\n\techo the tide is out\n\texit 3\n}\n",
    );
    let client = Client::new(&owner, server.url());
    let build = client.detach(&["broken"]);
    let (output, _) = client.attach(&[&build]).end();
    assert_eq!(output.status.code(), Some(1), "{}", text_of(&output));
    server.kill_and_restart(&server_site, &arguments);
    let (output, _) = client.attach(&[&build]).end();
    let text = text_of(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("broken:do_compile FAILED") && text.contains("the tide is out"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_goes_on_with_the_builds() {
    let Some(mut group) = SchedulerGroup::start_or_skip().await else {
        return;
    };
    let (machine, owner) = (Site::empty(), Site::empty());
    let _worker = group.start_worker(&machine, "2");
    let gate = Gate::new("leader");
    owner.add_recipe("gated", &gated(&gate.marker, ""));
    // By the follower, which forwards the calls.
    group.prefer([1, 0]);
    let client = Client::new(&owner, group.url());
    let build = client.detach(&["gated"]);
    let closed = gate.closed();
    let attached = client.attach(&[&build]);
    attached.wait_for("task_started", "gated", "do_compile");
    group.servers[0].kill();
    group.wait_for_leader(1);
    attached.wait_for_second_walk("gated", "do_compile");
    closed.kill();
    let shown = attached.succeeded();
    assert!(
        finished(&shown, "ran").contains(&"gated:do_compile".to_owned()),
        "{shown:?}"
    );
    assert!(gate.process().is_none(), "nothing ran twice");
}
