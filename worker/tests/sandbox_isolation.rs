//! Sandboxes separate commands from the machine and from each other.

use std::sync::Arc;

use bitzel_cas::{BlobStore, MemoryBlobStore};
use bitzel_worker::bounds::ActionNetworkSetting;
use bitzel_worker::{ExecutorConfig, SandboxedActionExecutor};

use crate::harness::*;

#[tokio::test]
async fn a_sandbox_has_its_own_user_host_and_file_system() {
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
async fn the_network_needs_a_platform_property() {
    let worker = Worker::with(|config| config.bounds.network = ActionNetworkSetting::Host).await;
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
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test]
async fn the_next_action_has_a_fresh_network() {
    let worker = Worker::new().await;
    let range = "/proc/sys/net/ipv4/ip_local_port_range";
    let change = format!("! echo 40000 40010 > {range} && ! unshare -Urpmf --mount-proc true");
    for number in 0..2 {
        // A connection that the server closes keeps the server's port busy for a minute.
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
async fn a_command_has_no_privileges_and_finds_no_remains() {
    let worker = Worker::new().await;
    for (number, tree) in directory([])
        .copied_and_overlaid()
        .iter()
        .cycle()
        .take(4)
        .enumerate()
    {
        // `sh -e` stops at the first failure, and `-x` shows the line.
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
        // If the worker is root, the command owns the files.
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
