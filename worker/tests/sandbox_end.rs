//! The end of a sandbox: timeout, cancellation and killed processes.

use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn a_timeout_kills_all_processes_and_keeps_outputs() {
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
async fn a_cancelled_action_leaves_no_process() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([])).await;
    let run = Run {
        script: "while :; do sleep 1000; done",
        ..Run::default()
    };
    let (request, mut stages) = Worker::observed_request(worker.action(root, &run).await);
    let cancellation = request.cancellation.clone();
    let (response, ()) = tokio::join!(worker.executor().execute(request), async {
        stages.recv().await.unwrap();
        cancellation.cancel();
    });
    assert_eq!(response.status.unwrap().code, Code::Cancelled as i32);
    assert_eq!(processes_below(&worker), Vec::<(i32, String)>::new());
}

#[tokio::test]
async fn launcher_and_supervisor_end_together() {
    let worker = Worker::new().await;
    let root = worker.put_tree(&directory([])).await;
    for victim in [0, 1] {
        let script = format!("setsid sleep 100{victim} & : > started; while :; do sleep 1000; done");
        let run = Run {
            script: &script,
            ..Run::default()
        };
        let (request, mut stages) = Worker::observed_request(worker.action(root, &run).await);
        let (response, processes) = tokio::join!(worker.executor().execute(request), async {
            stages.recv().await.unwrap();
            created_by_command(&worker, "started").await;
            let processes = processes_below(&worker);
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
        // The scheduler lets another worker run it.
        assert_eq!(status.code, Code::Aborted as i32);
        let reason = "the sandbox launcher ended without an answer";
        assert!(status.message.contains(reason), "{}", status.message);
        for (process, _) in processes {
            wait_for_end(process);
        }
    }
}

/// Waits until a process has ended. It does not have to be a child of this one.
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

/// Process ids and command lines of the processes of sandboxes: their mounts are in the worker's directory.
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
