//! Actions that attack their worker, each other or the machine.

use bitzel_worker::bounds::ActionNetworkSetting;
use tonic::Code;

use crate::harness::*;

/// Script that nests directories in the working directory.
fn nested(levels: usize) -> String {
    format!(
        "exec /usr/bin/python3 -c '
import os
for _ in range({levels}):
    os.mkdir(\"d\")
    os.chdir(\"d\")
'"
    )
}

#[tokio::test]
async fn survives_and_removes_endlessly_nested_directories() {
    let worker = Worker::new().await;
    // Deeper than the stack of a thread or the file descriptors of a process allow, and deeper than a path can be.
    let (endless, deep) = (nested(25_000), nested(1_900));
    let [copied, below] = directory([("out", directory([]))]).copied_and_overlaid();
    let in_output = |script| Run {
        script,
        working_directory: "out",
        outputs: &["."],
        ..Run::default()
    };
    for tree in [&copied, &below] {
        let run = Run {
            script: &endless,
            ..Run::default()
        };
        worker.run(tree, run).await;
    }
    for (script, tree) in [(&endless, &copied), (&deep, &below), (&deep, &copied)] {
        let run = Run {
            outputs: &["d"],
            ..in_output(script)
        };
        let status = worker.respond(tree, run).await.status.unwrap();
        assert_eq!(status.code, Code::FailedPrecondition as i32, "{}", status.message);
        assert!(
            status.message.contains("is below more than 512 directories"),
            "{}",
            status.message
        );
    }
    let run = Run {
        script: &deep,
        platform: &[("undeclared-writes", "error")],
        ..Run::default()
    };
    let status = worker.respond(&below, run).await.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32, "{}", status.message);
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn assembles_the_deepest_allowed_input_root() {
    let worker = Worker::new().await;
    let mut tree = directory([("f", file("bottom"))]);
    for _ in 0..510 {
        tree = directory([("d", tree), ("f", file("x"))]);
    }
    let run = Run {
        script: "cd d; find . -name f -type f | wc -l; echo y > f",
        outputs: &["d"],
        ..Run::default()
    };
    let result = worker.run(&tree, run).await;
    assert_eq!(worker.stdout(&result).await, "510\n");
    assert_eq!(worker.tree(&result, "d").await.children.len(), 509);
}

/// A command must not have the permissions of the worker's user. This test covers most if that user is root.
#[tokio::test]
async fn a_command_cannot_change_the_machine() {
    let worker = Worker::new().await;
    let script = "
        set -x
        fails() { if \"$@\"; then exit 1; fi; }
        for device in /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty; do
            test -c $device
            fails chmod 666 $device
            fails touch $device
        done
        echo > /dev/null
        test \"$(head -c 4 /dev/zero | tr '\\0' x)\" = xxxx
        fails test -e /etc/ssl/private
        test -e /etc/ssl/certs
        fails unshare -UrCm mount -t cgroup2 none /tmp
        fails unshare -UrCm mount -t cgroup -o memory none /tmp
        fails unshare -UrCm true
        fails unshare -Urnm mount -t sysfs none /tmp
        writable=$(find /proc -path '/proc/[0-9]*' -prune -o -path /proc/pressure -prune -o -type f -writable -print 2>/dev/null || true)
        test -z \"$writable\"
        unshare -Urmpin true
    ";
    worker
        .run(
            &directory([]),
            Run {
                script,
                platform: USER_NAMESPACES,
                ..Run::default()
            },
        )
        .await;
}

#[tokio::test]
async fn launchers_have_no_environment_but_the_path() {
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
    let _worker = Worker::new().await;
    let mut launchers = 0;
    for entry in std::fs::read_dir("/proc").unwrap() {
        let process = entry.unwrap().path();
        // Other processes end meanwhile.
        let read = |name: &str| std::fs::read_to_string(process.join(name)).unwrap_or_default();
        let parent = format!("\nPPid:\t{}\n", std::process::id());
        if read("cmdline") != "bitzel-launcher\0" || !read("status").contains(&parent) {
            continue;
        }
        let environment = read("environ");
        if environment.is_empty() {
            // The launcher of another test that has just ended.
            continue;
        }
        launchers += 1;
        let names: Vec<_> = environment
            .split_terminator('\0')
            .map(|variable| variable.split_once('=').unwrap().0)
            .collect();
        assert_eq!(names, ["PATH"]);
    }
    assert!(launchers > 0);
}

#[tokio::test]
async fn refuses_vast_files_and_cancels_their_hashing() {
    let worker = Worker::new().await;
    for script in [
        "truncate -s 65G out",
        "truncate -s 40G a; ln a b; truncate -s 30G c",
        "truncate -s 2T /proc/self/fd/1",
    ] {
        let run = Run {
            script,
            outputs: &["out", "a", "b", "c"],
            ..Run::default()
        };
        let status = worker.respond(&directory([]), run).await.status.unwrap();
        assert_eq!(status.code, Code::FailedPrecondition as i32, "{}", status.message);
        assert!(status.message.contains("too large"), "{}", status.message);
    }
    let root = worker.put_tree(&directory([])).await;
    let run = Run {
        script: "truncate -s 60G out",
        outputs: &["out"],
        ..Run::default()
    };
    let (request, mut stages) = Worker::observed_request(worker.action(root, &run).await);
    let cancellation = request.cancellation.clone();
    let (response, ()) = tokio::join!(worker.executor().execute(request), async {
        stages.recv().await.unwrap();
        // The hashing starts soon after the file is created. It has to end early in any case.
        created_by_command(&worker, "out").await;
        cancellation.cancel();
    });
    assert_eq!(response.status.unwrap().code, Code::Cancelled as i32);
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[tokio::test]
async fn network_actions_cannot_pass_files_to_each_other() {
    // In isolated networks they cannot even find each other.
    let worker = Worker::with(|config| config.bounds.network = ActionNetworkSetting::Host).await;
    let network: &[_] = &[("network", "on")];
    let listener = "exec /usr/bin/python3 -c '
import os, socket
listener = socket.socket(socket.AF_UNIX)
listener.bind(\"\\0bitzel hostile action %s\" % os.environ[\"NAME\"])
listener.listen()
connection, _ = listener.accept()
_, [descriptor], _, _ = socket.recv_fds(connection, 1, 1)
connection.recv(1)
while True: os.pwrite(descriptor, b\"evil\", 0)
'";
    let giver = "exec /usr/bin/python3 -c '
import ctypes, os, socket
descriptor = os.open(\"out\", os.O_RDWR | os.O_CREAT, 0o644)
os.write(descriptor, b\"good\")
client = socket.socket(socket.AF_UNIX)
scopes = ctypes.CDLL(None).syscall(444, None, 0, 1) >= 6
while True:
    try:
        client.connect(\"\\0bitzel hostile action %s\" % os.environ[\"NAME\"])
        socket.send_fds(client, [b\"x\"], [descriptor])
        break
    except ConnectionRefusedError: pass
    except PermissionError:
        print(\"denied\")
        break
if not scopes: print(\"this kernel lets them\")
'";
    let name = std::process::id().to_string();
    let environment: &[_] = &[("NAME", name.as_str())];
    let root = worker.put_tree(&directory([])).await;
    let run = |script| Run {
        script,
        platform: network,
        environment,
        outputs: &["out"],
        ..Run::default()
    };
    let listening = Worker::request(worker.action(root, &run(listener)).await);
    let giving = Worker::request(worker.action(root, &run(giver)).await);
    let cancellation = listening.cancellation.clone();
    let (_, response) = tokio::join!(worker.executor().execute(listening), async {
        let response = worker.executor().execute(giving).await;
        cancellation.cancel();
        response
    });
    // In any case: a file to which a process may still write never becomes an input of another Action.
    let digest = FUNCTION.digest(b"good").hash_hex();
    let kept = contents(&worker.cache().join("files"));
    assert!(
        !kept.keys().any(|path| path.to_string_lossy().contains(&*digest)),
        "{kept:?}"
    );
    let stdout = worker.stdout(response.result.as_ref().unwrap()).await;
    if stdout.contains("this kernel lets them") {
        println!(
            "SKIPPED: network_actions_cannot_pass_files_to_each_other: Linux before 6.12 cannot restrict abstract sockets"
        );
        return;
    }
    assert_eq!(stdout, "denied\n");
    let result = worker.succeeded(response).await;
    assert_eq!(worker.output(&result, "out").await, "good");
}

#[tokio::test]
async fn overlay_marks_and_process_one_are_out_of_reach() {
    let worker = Worker::new().await;
    let tree = directory([(
        "in",
        directory([
            ("a", file("one")),
            ("b", plain_file("two")),
            ("sub", directory([("c", file("three"))])),
        ]),
    )]);
    let [copied, below] = tree.copied_and_overlaid();
    // Without an overlay the kernel treats a whiteout as an ordinary device, which cannot be an output.
    let ways = [(copied, ""), (below, "fails ")];
    for (number, (tree, whiteout)) in ways.iter().cycle().take(4).enumerate() {
        // Writes, links and attributes go to the upper directory or fail.
        let script = format!(
            "# {number}
            set -x
            fails() {{ if \"$@\"; then exit 1; fi; }}
            test \"$(cat in/a in/b in/sub/c)\" = onetwothree
            {whiteout}mknod in/a2 c 0 0
            fails unshare -Ur mknod in/a2 c 0 0
            fails unshare -Ur mknod in/a3 b 254 0
            /usr/bin/python3 -c '
import os
for path in [\"in\", \"in/a\", \"in/sub\"]:
    for name in [\"opaque\", \"redirect\", \"metacopy\", \"whiteout\", \"origin\", \"upper\"]:
        for space in [\"user\", \"trusted\", \"security\"]:
            try: os.setxattr(path, space + \".overlay.\" + name, b\"y\")
            except OSError: pass
os.link(\"in/b\", \"in/d\")
os.chmod(\"in/d\", 0o4755)
os.utime(\"in/b\", (0, 0))
'
            kill -SEGV 1; kill -SEGV 1; kill -BUS 1; kill -ABRT 1; kill -STOP 1; kill -KILL 1
            fails cat /proc/1/maps
            fails unshare -Ur cat /proc/1/environ
            "
        );
        let run = Run {
            script: &script,
            outputs: &["in"],
            platform: USER_NAMESPACES,
            ..Run::default()
        };
        let result = worker.run(tree, run).await;
        let tree = worker.tree(&result, "in").await;
        let root = tree.root.unwrap();
        let files: Vec<_> = root.files.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(files, ["a", "b", "d"]);
        assert_eq!(root.directories.len(), 1);
        assert_eq!(tree.children[0].files.len(), 1);
    }
    for (path, content) in contents(&worker.cache().join("files")) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name.contains(&*FUNCTION.digest(&content).hash_hex()), "{name}");
    }
}
