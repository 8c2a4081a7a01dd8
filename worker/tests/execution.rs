//! Actions run in real sandboxes.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bitzel_cas::{BlobStore, MemoryBlobStore};
use bitzel_proto::missing_blobs::missing_blob_subjects;
use bitzel_proto::reapi::Command;
use bitzel_proto::reapi::command::EnvironmentVariable;
use bitzel_worker::{ActionExecutor, ExecutorConfig, SandboxedActionExecutor};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use support::*;
use tonic::Code;

#[tokio::test]
async fn a_command_reads_inputs_and_leaves_outputs() {
    let worker = Worker::new().await;
    let tree = directory([
        ("a", directory([("b", file("hello"))])),
        ("tool", Node::Executable(b"#!/bin/sh\necho from tool\n".to_vec())),
        ("empty", directory([])),
    ]);
    let result = worker
        .run(
            &tree,
            Run {
                script: "test -d empty && test -d out/deep; cat a/b > out/deep/file; ./tool; echo oops >&2",
                outputs: &["out/deep/file", "not/there"],
                ..Run::default()
            },
        )
        .await;
    assert_eq!(worker.output(&result, "out/deep/file").await, "hello");
    assert_eq!(result.output_files.len(), 1);
    assert_eq!(worker.stdout(&result).await, "from tool\n");
    assert_eq!(worker.stderr(&result).await, "oops\n");
    let metadata = result.execution_metadata.unwrap();
    let times = [
        metadata.worker_start_timestamp,
        metadata.input_fetch_start_timestamp,
        metadata.input_fetch_completed_timestamp,
        metadata.execution_start_timestamp,
        metadata.execution_completed_timestamp,
        metadata.output_upload_start_timestamp,
        metadata.output_upload_completed_timestamp,
        metadata.worker_completed_timestamp,
    ];
    let times: Vec<_> = times
        .iter()
        .map(|time| time.as_ref().map(|time| (time.seconds, time.nanos)).unwrap())
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_failing_command_keeps_its_exit_code_logs_and_outputs() {
    let worker = Worker::new().await;
    let response = worker
        .respond(
            &directory([]),
            Run {
                script: "echo partial > log; echo sorry >&2; exit 7",
                outputs: &["log"],
                ..Run::default()
            },
        )
        .await;
    assert_eq!(response.status.unwrap().code, 0);
    let result = response.result.unwrap();
    assert_eq!(result.exit_code, 7);
    assert_eq!(worker.output(&result, "log").await, "partial\n");
    assert_eq!(worker.stderr(&result).await, "sorry\n");
}

#[tokio::test]
async fn the_sandbox_has_its_own_user_host_environment_and_file_system() {
    let worker = Worker::new().await;
    let script = "id -u; id -un; hostname; env | sort; pwd; ls /; ls -A /tmp; echo $$; ls /proc/self/fd | tr '\\n' ' '; \
                  test ! -e /root && test ! -e /home; ! touch /usr/x /x /etc/x 2>/dev/null; touch /tmp/x; \
                  ! unshare -Ur true 2>/dev/null && echo alone";
    let result = worker
        .run(
            &directory([("sub", directory([]))]),
            Run {
                script,
                environment: &[("LC_ALL", "C"), ("HOME", "/work")],
                working_directory: "sub",
                ..Run::default()
            },
        )
        .await;
    let expected = "1000\nbitzel\nbitzel\nHOME=/work\nLC_ALL=C\n\
                    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/work/sub\n/work/sub\n\
                    bin\ndev\netc\nlib\nlib64\nproc\nrun\nsbin\ntmp\nusr\nvar\nwork\n2\n0 1 2 3 alone\n";
    assert_eq!(worker.stdout(&result).await, expected);
}

#[tokio::test]
async fn network_is_there_only_when_asked_for() {
    let worker = Worker::new().await;
    let script = "grep -c : /proc/net/dev";
    let without = worker
        .run(
            &directory([]),
            Run {
                script,
                ..Run::default()
            },
        )
        .await;
    let platform: &[_] = &[("network", "on")];
    let with = worker
        .run(
            &directory([]),
            Run {
                script,
                platform,
                ..Run::default()
            },
        )
        .await;
    let interfaces = std::fs::read_to_string("/proc/net/dev")
        .unwrap()
        .lines()
        .filter(|line| line.contains(':'))
        .count();
    assert_eq!(
        worker.stdout(&without).await,
        "1\n",
        "only the loopback interface"
    );
    assert_eq!(worker.stdout(&with).await, format!("{interfaces}\n"));
}

#[tokio::test]
async fn a_timeout_kills_every_descendant_and_keeps_what_was_written() {
    let worker = Worker::new().await;
    let script = "echo started; echo $$ > pid; (setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' &) ; \
                  while :; do sleep 1000; done";
    let response = worker
        .respond(
            &directory([]),
            Run {
                script,
                outputs: &["pid"],
                timeout: Some(Duration::from_secs(3)),
                ..Run::default()
            },
        )
        .await;
    assert_eq!(response.status.unwrap().code, Code::DeadlineExceeded as i32);
    let result = response.result.unwrap();
    assert_eq!(worker.stdout(&result).await, "started\n");
    assert_eq!(worker.output(&result, "pid").await, "2\n");
    assert_eq!(processes_below(&worker), Vec::<(i32, String)>::new());
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn a_cancelled_action_leaves_nothing() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([])).await;
    let run = Run {
        script: "while :; do sleep 1000; done",
        ..Run::default()
    };
    let mut request = Worker::request(worker.action(root, &run).await);
    let (stages, mut started) = tokio::sync::mpsc::unbounded_channel();
    request.stages = Some(stages);
    let cancellation = request.cancellation.clone();
    let (response, ()) = tokio::join!(
        bitzel_worker::ActionExecutor::execute(worker.executor(), request),
        async {
            started.recv().await.unwrap();
            cancellation.cancel();
        }
    );
    assert_eq!(response.status.unwrap().code, Code::Cancelled as i32);
    assert_eq!(processes_below(&worker), Vec::<(i32, String)>::new());
}

#[tokio::test]
async fn killed_launchers_and_supervisors_end_the_sandbox() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([])).await;
    for victim in [0, 1] {
        let script = format!("(setsid sleep 100{victim} &); while :; do sleep 1000; done");
        let run = Run {
            script: &script,
            ..Run::default()
        };
        let mut request = Worker::request(worker.action(root, &run).await);
        let (stages, mut started) = tokio::sync::mpsc::unbounded_channel();
        request.stages = Some(stages);
        let (response, processes) = tokio::join!(worker.executor().execute(request), async {
            started.recv().await.unwrap();
            // The sandbox is there when its supervisor has started the command.
            let processes = loop {
                let found = processes_below(&worker);
                if found.iter().any(|(_, command)| command.starts_with("sleep")) {
                    break found;
                }
                tokio::task::yield_now().await;
            };
            // The launcher, and the supervisor that it forked.
            let ours: Vec<i32> = processes
                .iter()
                .filter(|(_, command)| command.starts_with("bitzel-launcher"))
                .map(|(process, _)| *process)
                .collect();
            kill_process(Pid::from_raw(ours[victim]).unwrap(), Signal::KILL).unwrap();
            processes
        });
        let status = response.status.unwrap();
        assert_eq!(status.code, Code::Internal as i32);
        let reason = "the sandbox launcher ended without an answer";
        assert!(status.message.contains(reason), "{}", status.message);
        for (process, _) in processes {
            wait_for_end(process);
        }
    }
}

/// Waits until a process, whosesoever child it is, has ended.
fn wait_for_end(process: i32) {
    if let Ok(descriptor) = pidfd_open(Pid::from_raw(process).unwrap(), PidfdFlags::empty()) {
        rustix::event::poll(
            &mut [rustix::event::PollFd::new(
                &descriptor,
                rustix::event::PollFlags::IN,
            )],
            None,
        )
        .unwrap();
    }
}

#[tokio::test]
async fn a_machine_without_sandboxes_gets_advice() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = ExecutorConfig::new(directory.path());
    config.host_directories = vec!["/nonexistent".into()];
    let stores: Arc<dyn BlobStore> = Arc::new(MemoryBlobStore::default());
    let error = SandboxedActionExecutor::open(config, Arc::new(stores))
        .await
        .err()
        .unwrap()
        .to_string();
    for part in [
        "this machine cannot run sandboxes: build the sandbox with bubblewrap: ",
        "/nonexistent: No such file or directory",
        "bubblewrap (`bwrap`) in PATH",
        "Kubernetes",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

/// Process ids and command lines of processes whose mounts are in the worker's directory: those of sandboxes.
fn processes_below(worker: &Worker) -> Vec<(i32, String)> {
    let needle = worker
        .cache()
        .canonicalize()
        .unwrap()
        .to_string_lossy()
        .into_owned();
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        if name.bytes().all(|byte| byte.is_ascii_digit()) {
            let arguments = std::fs::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
            let directory = std::fs::read_link(format!("/proc/{name}/cwd")).unwrap_or_default();
            let mounts = std::fs::read_to_string(format!("/proc/{name}/mountinfo")).unwrap_or_default();
            if directory.starts_with(&needle) || mounts.contains(&needle) {
                found.push((
                    name.parse().unwrap(),
                    String::from_utf8_lossy(&arguments).into_owned(),
                ));
            }
        }
    }
    found
}

#[tokio::test]
async fn undeclared_writes_fail_an_action_that_asks_for_it() {
    let worker = Worker::new().await;
    let tree = directory([(
        "in",
        directory([
            ("a", file("1")),
            ("b", file("2")),
            ("c", file("3")),
            ("e", file("5")),
        ]),
    )]);
    // Neither an empty directory nor a hardlink to an input counts.
    let script = "ln in/c out/good; chmod u+w in/a; echo x >> in/a; rm in/b; echo x > in/d; mkdir -p new/empty; \
                  chmod 700 in; exit $CODE";
    let outputs: &[_] = &["out/good"];
    for tree in tree.both_ways() {
        let run = |code, platform| {
            let environment: &[_] = match code {
                0 => &[("CODE", "0")],
                _ => &[("CODE", "3")],
            };
            Run {
                script,
                outputs,
                platform,
                environment,
                ..Run::default()
            }
        };
        let response = worker
            .respond(&tree, run(0, &[("undeclared-writes", "error")]))
            .await;
        let status = response.status.unwrap();
        assert_eq!(status.code, Code::FailedPrecondition as i32);
        assert_eq!(
            status.message,
            "the command wrote outside its declared outputs: in/a, in/b, in/d"
        );
        assert_eq!(response.message, status.message);
        let result = response.result.unwrap();
        assert_eq!(worker.output(&result, "out/good").await, "3");

        // Without the property such writes vanish; a command that failed has other problems.
        worker.run(&tree, run(0, &[])).await;
        let response = worker
            .respond(&tree, run(3, &[("undeclared-writes", "error")]))
            .await;
        assert_eq!(
            (response.status.unwrap().code, response.result.unwrap().exit_code),
            (0, 3)
        );
    }
}

#[tokio::test]
async fn declared_writes_only_are_fine() {
    let worker = Worker::new().await;
    let tree = directory([(
        "in",
        directory([("a", file("1")), ("deep", directory([("b", file("2"))]))]),
    )]);
    for tree in tree.both_ways() {
        let run = Run {
            script: "chmod u+w in/a; echo x >> in/a; rm -r in/deep; mkdir -p made/x/y; touch made/x/y/z",
            platform: &[("undeclared-writes", "error")],
            outputs: &["in/a", "in/deep", "made/x"],
            ..Run::default()
        };
        worker.run(&tree, run).await;
    }
}

#[tokio::test]
async fn all_missing_blobs_are_named() {
    let worker = Worker::new().await;
    let [one, two] = [FUNCTION.digest(b"one"), FUNCTION.digest(b"two")];
    let node = |name: &str, digest: bitzel_proto::Digest| bitzel_proto::reapi::FileNode {
        name: name.into(),
        digest: Some(digest.into()),
        ..Default::default()
    };
    let root = bitzel_proto::reapi::Directory {
        files: vec![node("a", one), node("b", two)],
        ..Default::default()
    };
    let root = worker.put_message(&root).await;
    let action = worker
        .action(
            root,
            &Run {
                script: "true",
                ..Run::default()
            },
        )
        .await;
    let response = worker.execute(action).await;
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    let mut expected = [format!("blobs/{one}"), format!("blobs/{two}")];
    expected.sort();
    let mut subjects = missing_blob_subjects(&status);
    subjects.sort();
    assert_eq!(subjects, expected);
    assert!(response.result.is_none());

    let response = worker.execute(FUNCTION.digest(b"no action")).await;
    assert_eq!(missing_blob_subjects(&response.status.unwrap()).len(), 1);
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn bad_commands_are_refused_with_a_reason() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([("f", file(""))])).await;
    let command = |change: fn(&mut Command)| {
        let mut command = Command {
            arguments: vec!["true".into()],
            ..Command::default()
        };
        change(&mut command);
        command
    };
    let cases: [(Command, &str); 8] = [
        (
            command(|command| command.arguments.clear()),
            "the Command has no arguments",
        ),
        (
            command(|command| command.output_paths = vec!["/etc/passwd".into()]),
            "output_paths \"/etc/passwd\" is absolute",
        ),
        (
            command(|command| command.output_paths = vec!["a/../../b".into()]),
            "has the component \"..\"",
        ),
        (
            command(|command| command.output_node_properties = vec!["mtime".into(), "owner".into()]),
            "output_node_properties: \"owner\" is not known",
        ),
        (
            command(|command| command.working_directory = "missing".into()),
            "working directory \"missing\" is not in the input root",
        ),
        (
            command(|command| command.working_directory = "../x".into()),
            "has the component \"..\"",
        ),
        (
            command(|command| command.working_directory = "f".into()),
            "working directory \"f\" is not in the input root",
        ),
        (
            command(|command| command.arguments = vec!["no-such-program".into()]),
            "the command cannot be started: no-such-program: No such file",
        ),
    ];
    for (command, reason) in cases {
        let action = worker.action_of(root, &command, &Run::default()).await;
        let status = worker.execute(action).await.status.unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32, "{}", status.message);
        assert!(status.message.contains(reason), "{}", status.message);
    }
}

#[tokio::test]
async fn a_signal_is_reported_as_a_shell_does() {
    let worker = Worker::new().await;
    // Also by one without a name, of which an orphan ends, too.
    for (script, code) in [
        ("kill -SEGV $$", 11),
        ("(sh -c 'kill -34 $$' &); kill -35 $$", 35),
    ] {
        let run = Run {
            script,
            ..Run::default()
        };
        let response = worker.respond(&directory([]), run).await;
        assert_eq!(response.status.unwrap().code, 0);
        assert_eq!(response.result.unwrap().exit_code, 128 + code);
    }
}

#[tokio::test]
async fn an_output_that_is_no_file_is_named() {
    let worker = Worker::new().await;
    let run = Run {
        script: "mkdir out; mkfifo out/pipe",
        outputs: &["out"],
        ..Run::default()
    };
    let response = worker.respond(&directory([]), run).await;
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    assert!(
        status.message.contains("\"out/pipe\" is a named pipe"),
        "{}",
        status.message
    );
}

#[tokio::test]
async fn nothing_that_an_action_does_to_its_network_reaches_the_next_one() {
    let worker = Worker::new().await;
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    let change = format!("! echo 40000 40010 > {range} && ! unshare -Urpmf --mount-proc true");
    for number in 0..2 {
        // A connection that is closed from the side of the server keeps the server's port for a minute.
        let script = format!(
            "# {number}
            {{ {change}; }} 2>/dev/null || exit 1
            exec /usr/bin/python3 -c '
import socket
server = socket.socket()
server.bind((\"127.0.0.1\", 4321))
server.listen()
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
accepted.close()
client.close()
print(\"connected\")'"
        );
        let result = worker
            .run(
                &directory([]),
                Run {
                    script: &script,
                    platform: USER_NAMESPACES,
                    ..Run::default()
                },
            )
            .await;
        assert_eq!(worker.stdout(&result).await, "connected\n");
    }
}

#[tokio::test]
async fn a_command_has_no_power_and_finds_nothing_of_the_one_before() {
    let worker = Worker::new().await;
    for (number, tree) in directory([]).both_ways().iter().cycle().take(4).enumerate() {
        // Everything that fails is named by its line: `sh -e` stops there, `-x` says where.
        let script = format!(
            "# {number}
            set -x
            grep Cap /proc/self/status | (! grep -v '\\s0000000000000000$')
            grep 'NoNewPrivs:.1' /proc/self/status
            grep ' /work .*nosuid,nodev' /proc/self/mountinfo
            test \"$(ls -A /tmp /dev/shm /run | tr -d '\\n')\" = /dev/shm:/run:/tmp:
            test \"$(ls /dev/pts)\" = ptmx
            test \"$(ipcs -qms | grep -c 0x)\" = 0
            test \"$(ls -d /proc/[0-9]* | wc -l)\" -le 5
            test ! -e left
            fails() {{ if \"$@\"; then exit 1; fi; }}
            fails mount -t tmpfs none /tmp
            fails umount /work
            fails umount -l /proc
            fails nsenter -t 1 -m true
            fails cat /proc/1/environ
            fails readlink /proc/1/fd/0
            fails readlink /proc/1/exe
            fails touch /left
            fails touch /dev/left
            fails touch /run/left
            fails touch /proc/sys/kernel/hostname
            fails hostname left
            fails unshare -Urm umount /work
            fails unshare -Urm umount -l /work
            fails unshare -Urm umount -l /proc
            fails unshare -Urm umount -l /proc/sys
            fails unshare -Urm mount -o remount,bind,rw /proc/sys
            fails unshare -Urm mount -o remount,bind,rw /dev
            echo > /tmp/left; echo > /dev/shm/left; echo > left
            ipcmk -Q; ipcmk -M 4096; ipcmk -S 1
            setsid sleep 1000 < /dev/null > /dev/null 2>&1 &
            "
        );
        let run = Run {
            script: &script,
            platform: USER_NAMESPACES,
            ..Run::default()
        };
        worker.run(tree, run).await;
    }
}

#[tokio::test]
async fn settings_of_the_supervisor_end_with_it() {
    let worker = Worker::new().await;
    let mut seen = vec![];
    for number in 0..3 {
        // If the worker is root, the files are the command's.
        let script = format!(
            "# {number}
            cat /proc/1/oom_score_adj /proc/self/oom_score_adj /proc/1/coredump_filter /proc/self/coredump_filter
            echo 700 > /proc/1/oom_score_adj || true
            echo 0x107 > /proc/1/coredump_filter || true"
        );
        let run = Run {
            script: &script,
            ..Run::default()
        };
        let result = worker.run(&directory([]), run).await;
        seen.push(worker.stdout(&result).await);
    }
    assert_eq!((&seen[1], &seen[2]), (&seen[0], &seen[0]));
}

#[tokio::test]
async fn a_program_is_found_as_a_shell_finds_it() {
    let worker = Worker::new().await;
    let tree = directory([
        (
            "bin",
            directory([("tool", Node::Executable(b"echo $0 $1".to_vec()))]),
        ),
        ("data", directory([("tool", plain_file("no program"))])),
    ]);
    let root = worker.put_tree(&tree).await;
    // No line in it names an interpreter.
    let command = Command {
        arguments: vec!["tool".into(), "found".into()],
        environment_variables: vec![EnvironmentVariable {
            name: "PATH".into(),
            value: "/work/data:/work/bin:/usr/bin".into(),
        }],
        ..Command::default()
    };
    let action = worker.action_of(root, &command, &Run::default()).await;
    let response = worker.execute(action).await;
    let result = worker.succeeded(response).await;
    assert_eq!(worker.stdout(&result).await, "/work/bin/tool found\n");
}
