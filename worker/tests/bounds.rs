//! Bounds of each Action: what one may use, and that no other Action fails for it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitzel_proto::google::rpc;
use bitzel_proto::reapi::{Directory, DirectoryNode};
use bitzel_proto::resource_usage;
use bitzel_worker::Bounds;
use tonic::Code;

use crate::harness::*;

/// A worker whose bounds a test changes.
async fn bounded(change: impl FnOnce(&mut Bounds)) -> Worker {
    Worker::with(|config| change(&mut config.bounds)).await
}

/// Asserts that an Action failed by its own fault, with the figures and the settings in the message.
#[track_caller]
fn assert_reached(status: &rpc::Status, parts: &[&str]) {
    let message = &status.message;
    assert_eq!(status.code, Code::FailedPrecondition as i32, "{message}");
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// A command in Python.
fn python(program: &str) -> String {
    format!("echo started; exec /usr/bin/python3 -c '{program}'")
}

#[tokio::test(flavor = "multi_thread")]
async fn f7_an_action_that_takes_too_much_fails_and_no_other() {
    let worker = bounded(|bounds| {
        bounds.memory_bytes = 128 << 20;
        bounds.processes = 60;
        bounds.disk_bytes = 32 << 20;
        bounds.log_bytes = 4 << 20;
    })
    .await;
    let root = worker.put_tree(&directory([])).await;
    let memory = python("import os, signal\nkept = os.urandom(200 << 20)\nsignal.pause()");
    let processes = "echo started; while :; do sleep 1000 & done 2> /dev/null".to_owned();
    let disk = "echo started; head -c 40M /dev/zero > out; sleep 1000".to_owned();
    let log = "echo started; yes; sleep 1000".to_owned();
    let ordinary = "head -c 1M /dev/zero > out; sleep 1; (:) & wait; echo done";
    let cases: [(&str, String, &[&str]); 4] = [
        (
            "memory",
            memory,
            &[
                "uses too much memory: ",
                "allows 128.0 MiB",
                "`memory`",
                "--action-memory",
            ],
        ),
        (
            "processes",
            processes,
            &[
                "too many processes",
                "allows 60;",
                "`processes`",
                "--action-processes",
            ],
        ),
        (
            "disk",
            disk,
            &[
                "too much disk space: ",
                "allows 32.0 MiB",
                "`disk`",
                "--action-disk",
            ],
        ),
        (
            "log",
            log,
            &[
                "standard output and error are too large: ",
                "allows 4.0 MiB",
                "`log_size`",
                "--action-log-size",
            ],
        ),
    ];
    for (name, script, parts) in cases {
        let greedy = Run {
            script: &script,
            outputs: &["out"],
            ..Run::default()
        };
        let ordinary_script = format!("# {name}\n{ordinary}");
        let other = Run {
            script: &ordinary_script,
            outputs: &["out"],
            ..Run::default()
        };
        let (greedy, other) = (
            worker.action(root, &greedy).await,
            worker.action(root, &other).await,
        );
        let (response, other) = tokio::join!(worker.execute(greedy), worker.execute(other));
        assert_reached(&response.status.unwrap(), parts);
        let result = response.result.unwrap();
        assert_eq!(result.exit_code, 128 + 9);
        let usage = resource_usage::read(result.execution_metadata.as_ref().unwrap());
        let bound = usage.map_or(0, |usage| usage.memory_bound_bytes);
        assert_eq!(bound, if name == "memory" { 128 << 20 } else { 0 }, "{name}");
        if name != "log" {
            assert_eq!(worker.stdout(&result).await, "started\n");
        }
        assert!(result.output_files.is_empty());
        let result = worker.succeeded(other).await;
        assert_eq!(worker.stdout(&result).await, "done\n");
    }
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

/// The root of 18 Directories of less than 2 KB together, which unfold to 262,143.
async fn unfolding_tree(worker: &Worker) -> bitzel_proto::Digest {
    let mut digest = worker.put_message(&Directory::default()).await;
    for _ in 0..17 {
        let node = |name: &str| DirectoryNode {
            name: name.into(),
            digest: Some(digest.into()),
        };
        let level = Directory {
            directories: vec![node("a"), node("b")],
            ..Directory::default()
        };
        digest = worker.put_message(&level).await;
    }
    digest
}

#[tokio::test]
async fn f8_a_small_message_with_vast_inputs_is_refused() {
    let worker = bounded(|bounds| bounds.input_entries = 200_000).await;
    let root = unfolding_tree(&worker).await;
    let run = Run {
        script: "true",
        ..Run::default()
    };
    let start = Instant::now();
    let response = worker.execute(worker.action(root, &run).await).await;
    assert_reached(
        &response.status.unwrap(),
        &[
            "262142, and this worker allows 200000;",
            "`input_entries`",
            "--action-input-entries",
        ],
    );
    assert!(response.result.is_none());
    // Nothing was assembled.
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn f8_too_large_inputs_are_refused_before_they_are_fetched() {
    let worker = bounded(|bounds| bounds.input_bytes = 1 << 40).await;
    // Nobody has this file, so a fetch would fail in another way.
    let digest = bitzel_proto::Digest::from_parts(FUNCTION, &"0".repeat(64), 3 << 38).unwrap();
    let file = |name: &str| bitzel_proto::reapi::FileNode {
        name: name.into(),
        digest: Some(digest.into()),
        ..bitzel_proto::reapi::FileNode::default()
    };
    let leaf = Directory {
        files: vec![file("f")],
        ..Directory::default()
    };
    let leaf = worker.put_message(&leaf).await;
    let node = |name: &str| DirectoryNode {
        name: name.into(),
        digest: Some(leaf.into()),
    };
    let root = |directories| Directory {
        directories,
        ..Directory::default()
    };
    let run = Run {
        script: "true",
        ..Run::default()
    };
    let large = worker.put_message(&root(vec![node("a"), node("b")])).await;
    let response = worker.execute(worker.action(large, &run).await).await;
    assert_reached(
        &response.status.unwrap(),
        &[
            "the input root is too large: 1.5 TiB, and this worker allows 1.0 TiB;",
            "`input_size`",
            "--action-input-size",
        ],
    );
    assert!(response.result.is_none());
    let within = worker.put_message(&root(vec![node("a")])).await;
    let response = worker.execute(worker.action(within, &run).await).await;
    let status = response.status.unwrap();
    assert!(status.message.contains("is missing from"), "{}", status.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_the_total_time_ends_an_assembly() {
    let worker = bounded(|bounds| bounds.total_time = Duration::from_millis(300)).await;
    let root = unfolding_tree(&worker).await;
    let run = Run {
        script: "true",
        ..Run::default()
    };
    let response = worker.execute(worker.action(root, &run).await).await;
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::DeadlineExceeded as i32, "{}", status.message);
    assert!(status.message.contains("300ms"), "{}", status.message);
    assert!(status.message.contains("--action-time"), "{}", status.message);
    assert!(response.result.is_none(), "the command never ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn f23_the_time_of_inputs_ends_an_assembly() {
    let worker = bounded(|bounds| bounds.input_time = Duration::from_millis(300)).await;
    let root = unfolding_tree(&worker).await;
    let run = Run {
        script: "true",
        ..Run::default()
    };
    let response = worker.execute(worker.action(root, &run).await).await;
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::DeadlineExceeded as i32, "{}", status.message);
    assert!(status.message.contains("300ms"), "{}", status.message);
    assert!(
        status.message.contains("--action-input-time"),
        "{}",
        status.message
    );
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
    // The command has the time of its own.
    let run = Run {
        script: "sleep 1",
        ..Run::default()
    };
    worker.run(&directory([]), run).await;
}

#[tokio::test]
async fn f23_repeated_files_with_times_weigh_more() {
    let worker = bounded(|bounds| bounds.input_entries = 2000).await;
    let files = (0..100).map(|number| (number.to_string(), file("x")));
    let files = Node::Directory(files.collect(), None);
    let run = Run {
        script: "true",
        ..Run::default()
    };
    let two = directory([("a", files.clone()), ("b", files.clone())]);
    worker.run(&two, run).await;
    let run = Run {
        script: "true",
        ..Run::default()
    };
    let three = directory([("a", files.clone()), ("b", files.clone()), ("c", files.clone())]);
    let status = worker.respond(&three, run).await.status.unwrap();
    assert_reached(&status, &["3303, and this worker allows 2000;", "count 16 times"]);
    let run = Run {
        script: "true",
        ..Run::default()
    };
    // Those without times are links to one file.
    worker.run(&three.without_properties(), run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_the_total_time_ends_the_hashing() {
    let worker = bounded(|bounds| {
        bounds.total_time = Duration::from_secs(2);
        bounds.output_bytes = u64::MAX;
    })
    .await;
    let run = Run {
        script: "truncate -s 1T out",
        outputs: &["out"],
        // The command ends in time.
        timeout: Some(Duration::from_mins(10)),
        ..Run::default()
    };
    let response = worker.respond(&directory([]), run).await;
    assert_eq!(response.status.unwrap().code, Code::DeadlineExceeded as i32);
    assert_eq!(response.result.unwrap().exit_code, 0);
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn f8_vast_outputs_are_refused_before_they_are_hashed() {
    let worker = bounded(|bounds| bounds.output_entries = 1000).await;
    let cases: [(&str, &[&str]); 2] = [
        (
            "mkdir out; truncate -s 100G out/sparse",
            &[
                "the outputs are too large: 100.0 GiB, and this worker allows 64.0 GiB;",
                "`output_size`",
            ],
        ),
        (
            "mkdir -p out/d; cd out/d; seq 1 1001 | xargs touch",
            &[
                "too many files, directories and symlinks: this worker allows 1000;",
                "`output_entries`",
            ],
        ),
    ];
    for (script, parts) in cases {
        let run = Run {
            script,
            outputs: &["out"],
            ..Run::default()
        };
        let start = Instant::now();
        let response = worker.respond(&directory([]), run).await;
        assert_reached(&response.status.unwrap(), parts);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    let run = Run {
        script: "mkdir -p out/d; cd out/d; seq 1 998 | xargs touch",
        outputs: &["out"],
        ..Run::default()
    };
    worker.run(&directory([]), run).await;
}

#[tokio::test]
async fn trees_of_unchanged_directories_count_as_output() {
    let subdirectories: std::collections::BTreeMap<String, Node> = (0..100)
        .map(|number| (format!("{number:0>200}"), directory([])))
        .collect();
    let wide = Node::Directory(subdirectories, None);
    // A Tree of about 25 KB.
    let tree = directory([("a", directory([("b", directory([("wide", wide)]))]))]);
    let worker = bounded(|bounds| bounds.output_bytes = 60_000).await;
    let run = |outputs| Run {
        script: "true",
        outputs,
        ..Run::default()
    };
    let result = worker.run(&tree, run(&["a/b", "a/b/wide"])).await;
    assert_eq!(result.output_directories.len(), 2);
    let nested = run(&["a", "a/b", "a/b/wide"]);
    let status = worker.respond(&tree, nested).await.status.unwrap();
    assert_reached(&status, &["the outputs are too large: ", "`output_size`"]);
}

#[tokio::test]
async fn a_changed_directory_in_many_outputs_is_bounded() {
    let files: std::collections::BTreeMap<String, Node> = (0..300)
        .map(|number| (number.to_string(), plain_file("x")))
        .collect();
    let inner = directory([("d", Node::Directory(files, None))]);
    let tree = directory([("a", directory([("b", directory([("c", inner)]))]))]);
    let worker = bounded(|bounds| bounds.output_entries = 1000).await;
    let run = |outputs| Run {
        script: "touch a/b/c/d/new",
        outputs,
        ..Run::default()
    };
    for tree in tree.copied_and_overlaid() {
        worker.run(&tree, run(&["a/b/c/d"])).await;
        let nested = run(&["a", "a/b", "a/b/c", "a/b/c/d"]);
        let status = worker.respond(&tree, nested).await.status.unwrap();
        assert_reached(&status, &["too many files", "`output_entries`"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f5_actions_share_no_files_of_their_own_and_take_no_leases() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([])).await;
    // Each waits until the other has started, so they run in two launchers.
    let script = |own: &str| {
        format!(
            "stat -c %d:%i /etc/passwd /etc/group /etc/hosts; cat /etc/passwd > passwd; : > {own}
exec /usr/bin/python3 -c '
import fcntl, time
for path in [\"/etc/passwd\", \"/etc/group\", \"/etc/hosts\", \"/usr/bin/env\", \"passwd\"]:
    for lease in [fcntl.F_RDLCK, fcntl.F_WRLCK]:
        with open(path) as file:
            try:
                fcntl.fcntl(file, fcntl.F_SETLEASE, lease)
                print(\"leased\", path)
            except PermissionError: pass
time.sleep(1)'"
        )
    };
    let mut actions = vec![];
    for name in ["one", "two"] {
        let script = script(name);
        let run = Run {
            script: &script,
            outputs: &["passwd"],
            ..Run::default()
        };
        actions.push(worker.action(root, &run).await);
    }
    let (one, two) = tokio::join!(worker.execute(actions[0]), worker.execute(actions[1]));
    let mut inodes = BTreeSet::new();
    for response in [one, two] {
        let result = worker.succeeded(response).await;
        assert!(
            worker
                .output(&result, "passwd")
                .await
                .contains("bitzel:x:1000:1000:")
        );
        let stdout = worker.stdout(&result).await;
        assert_eq!(stdout.lines().count(), 3, "{stdout}");
        inodes.extend(stdout.lines().map(str::to_owned));
    }
    assert_eq!(inodes.len(), 6, "{inodes:?}");
}

/// Keys in the kernel that this user can see, and the numbers of keys of each user.
fn keys_of_this_user() -> (u64, Vec<String>) {
    let users = fs::read_to_string("/proc/key-users").unwrap_or_default();
    let own = format!("{}:", rustix::process::getuid().as_raw());
    // `uid: usage nkeys/nikeys qnkeys/maxkeys qnbytes/maxbytes`
    let line = users.lines().map(str::split_whitespace).find_map(|mut words| {
        let user = words.next()?;
        (user == own).then(|| words.nth(1).unwrap_or_default().to_owned())
    });
    let count = line.and_then(|counts| counts.split_once('/')?.0.parse().ok());
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    let named = keys.lines().filter(|line| line.contains("bitzel"));
    (count.unwrap_or(0), named.map(str::to_owned).collect())
}

#[tokio::test]
async fn f11_no_key_outlives_an_action() {
    let worker = Worker::new().await;
    // The keyrings of thread, process, session, user and user session, and the one that outlives sessions.
    let script = "exec /usr/bin/python3 -c '
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
add_key, keyctl = {\"x86_64\": (248, 250)}.get(platform.machine(), (217, 219))
print([libc.syscall(add_key, b\"user\", b\"bitzel\", b\"secret\", 6, ring) for ring in range(-6, 0)])
print(libc.syscall(keyctl, 22, -1, -3), libc.syscall(keyctl, 1, b\"bitzel\"))'";
    let before = keys_of_this_user();
    for number in 0..20 {
        let script = format!("# {number}\n{script}");
        let run = Run {
            script: &script,
            ..Run::default()
        };
        let result = worker.run(&directory([]), run).await;
        assert_eq!(worker.stdout(&result).await, "[-1, -1, -1, -1, -1, -1]\n-1 -1\n");
    }
    let after = keys_of_this_user();
    assert!(after.1.is_empty(), "{:?}", after.1);
    // Session keyrings of commands go when the kernel next cleans up. They do not add up. Other tests run beside this one.
    assert!(after.0 < before.0 + 20 || after.0 < 200, "{before:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f7_a_full_disk_hands_the_lease_back() {
    let Some(small) = SmallFileSystem::mount("size=16M") else {
        println!("SKIPPED: f7_a_full_disk_hands_the_lease_back: this user may not mount");
        return;
    };
    let scratch = small.path().join("scratch");
    let worker = Worker::on(Arc::default(), |config| {
        config.scratch_directory = Some(scratch.clone());
    })
    .await;
    let root = worker.put_tree(&directory([])).await;
    let run = |script| Run {
        script,
        outputs: &["out"],
        ..Run::default()
    };
    // The command notices it.
    let full = worker.action(root, &run("head -c 20M /dev/zero > out")).await;
    let status = worker.execute(full).await.status.unwrap();
    assert_eq!(status.code, Code::Aborted as i32, "{}", status.message);
    assert!(status.message.contains("too few resources"), "{}", status.message);
    // A command that fails for another reason is not handed back.
    let failing = worker.action(root, &run("exit 3")).await;
    assert_eq!(worker.execute(failing).await.result.unwrap().exit_code, 3);
    // The worker itself notices it.
    let ballast = small.path().join("ballast");
    let _ = fs::write(&ballast, vec![1; 17 << 20]);
    assert!(fs::metadata(&ballast).unwrap().size() > 15 << 20);
    let plain = worker.action(root, &run("# plain\necho x > out")).await;
    let status = worker.execute(plain).await.status.unwrap();
    assert_eq!(status.code, Code::Aborted as i32, "{}", status.message);
    fs::remove_file(&ballast).unwrap();
    let response = worker.execute(plain).await;
    worker.succeeded(response).await;
}
