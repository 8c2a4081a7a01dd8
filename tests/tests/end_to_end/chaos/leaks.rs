//! Search for what a farm has left behind.

use std::path::Path;
use std::process::Command;

use bitzel_tests::poll_until;

use super::farm::Farm;

/// Waits until nothing waits or runs: on the workers, in the queue and in the journal.
pub(super) fn wait_until_idle(farm: &mut Farm) {
    poll_until("no worker runs an Action", || {
        farm.programs().for_each(|program| drop(program.supervise()));
        let mut workers = farm.workers.iter();
        workers
            .all(|worker| worker.metric("bitzel_worker_actions_running") == Some(0.0))
            .then_some(())
    });
    poll_until("nothing waits, and no slot is used", || {
        let leader = &farm.servers[farm.leader()?];
        let is_idle = leader.metric("bitzel_queue_waiting_actions") == Some(0.0)
            && leader.metric("bitzel_worker_slots_used") == Some(0.0);
        is_idle.then_some(())
    });
    poll_until("the journal has no lease and no waiting operation", || {
        let query = "SELECT count(*) FROM bitzel_operations WHERE outcome IS NULL";
        let mut command = Command::new("psql");
        let output = command.args([&farm.postgresql.url(), "-Atc", query]).output();
        let output = output.expect("psql starts");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (text == "0").then_some(())
    });
}

/// What is left of a farm whose workers have ended. `salt` is in the command lines of its Actions.
pub(super) fn find(farm: &Farm, salt: &str) -> Vec<String> {
    let mut leaks = vec![];
    let sites: Vec<String> = farm
        .workers
        .iter()
        .map(|worker| worker.site.path("").display().to_string())
        .collect();
    let is_ours = |text: &str| text.contains(salt) || sites.iter().any(|site| text.contains(site.as_str()));
    let own = std::process::id().to_string();
    for entry in std::fs::read_dir("/proc").expect("/proc").filter_map(Result::ok) {
        let process = entry.path();
        let id = entry.file_name().to_string_lossy().into_owned();
        if !id.bytes().all(|byte| byte.is_ascii_digit()) || id == own {
            continue;
        }
        let read = |name: &str| {
            let bytes = std::fs::read(process.join(name)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        for name in ["cmdline", "environ"] {
            let text = read(name);
            if is_ours(&text) {
                leaks.push(format!("process {id}, {name}: {}", text.replace('\0', " ")));
            }
        }
        // Sandboxes have mount namespaces of their own.
        for line in read("mountinfo").lines().filter(|line| is_ours(line)) {
            // The small disk itself, which processes of this machine see.
            if !line.contains(" - tmpfs chaos ") {
                leaks.push(format!(
                    "process {id} ({}) holds the mount {line}",
                    read("cmdline").replace('\0', " ")
                ));
            }
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    for line in mounts.lines().filter(|line| is_ours(line)) {
        if !line.contains(" - tmpfs chaos ") {
            leaks.push(format!("mount {line}"));
        }
    }
    for worker in &farm.workers {
        for directory in ["changes", "actions", "temporary"] {
            let directory = worker.site.cache().join("bitzel/worker").join(directory);
            leaks.extend(files_below(&directory).map(|file| format!("scratch file {file}")));
        }
    }
    for program in [&farm.store].into_iter().chain(&farm.servers) {
        let cache = program.site.cache();
        let all = files_below(&cache);
        leaks.extend(
            all.filter(|file| file.contains("/temporary/"))
                .map(|file| format!("temporary file {file}")),
        );
    }
    for entry in walkdir::WalkDir::new("/sys/fs/cgroup")
        .into_iter()
        .filter_map(Result::ok)
    {
        let name = entry.file_name().to_string_lossy();
        let worker = name
            .strip_prefix("bitzel-action-")
            .and_then(|rest| rest.split('-').next());
        // Other tests of this machine have groups too.
        if worker.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            leaks.push(format!("control group {}", entry.path().display()));
        }
    }
    leaks
}

/// Blobs that `bitzel store verify` finds damaged.
pub(super) fn damaged_blobs(farm: &Farm) -> Option<String> {
    let output = farm.store.site.bitzel("store").arg("verify").output();
    let output = output.expect("bitzel starts");
    (!output.status.success()).then(|| bitzel_tests::text_of(&output))
}

/// Number of results in the action cache of the store, which has ended.
pub(super) fn cached_results(farm: &Farm) -> u64 {
    let directory = farm.store.site.cache().join("bitzel/server/ac");
    let mut command = farm.store.site.bitzel("store");
    let text = bitzel_tests::run(command.arg("--store").arg(directory).args(["stats", "--json"]));
    let statistics: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    statistics["blobs"].as_u64().expect("a number")
}

fn files_below(directory: &Path) -> impl Iterator<Item = String> {
    let entries = walkdir::WalkDir::new(directory)
        .into_iter()
        .filter_map(Result::ok);
    entries
        .filter(|entry| !entry.file_type().is_dir())
        .map(|entry| entry.path().display().to_string())
}
