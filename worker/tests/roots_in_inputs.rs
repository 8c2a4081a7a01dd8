//! Actions that bring the root file system in which they run as their input root, as `BuildStream` does.

use tonic::Code;

use crate::harness::*;

const INPUT_ROOT: &[(&str, &str)] = &[("root-image", "input-root")];

/// A root with a shell and tools, with what the sandbox needs, and with `further` files.
fn root(further: &[(&str, Node)]) -> Node {
    let mut nodes = vec![
        ("dev", directory([])),
        ("proc", directory([])),
        ("tmp", directory([])),
    ];
    nodes.extend_from_slice(further);
    image_root(&nodes)
}

#[tokio::test]
async fn the_input_root_is_the_root() {
    let worker = Worker::new().await;
    let root = root(&[("build/file", file("of the input"))]);
    let script = "pwd; cat /build/file; test ! -e /usr/bin/python3; test ! -e /work; test ! -e /etc; echo x > /tmp/x; \
                  ls /dev/null /proc/self/exe; cat /proc/sys/kernel/hostname; echo new > /usr/new; echo changed > file";
    let run = Run {
        script,
        outputs: &["../usr/new", "file"],
        platform: INPUT_ROOT,
        working_directory: "build",
        ..Run::default()
    };
    let result = worker.run(&root, run).await;
    assert_eq!(
        worker.stdout(&result).await,
        "/build\nof the input/dev/null\n/proc/self/exe\nbitzel\n"
    );
    assert_eq!(worker.output(&result, "../usr/new").await, "new\n");
    assert_eq!(worker.output(&result, "file").await, "changed\n");
}

#[tokio::test]
async fn the_whole_root_may_be_an_output() {
    let worker = Worker::new().await;
    let root = root(&[("kept", file("kept"))]);
    let run = Run {
        script: "echo made > /made; echo x > /tmp/x; rm /usr/bin/mv",
        outputs: &["."],
        platform: INPUT_ROOT,
        ..Run::default()
    };
    let result = worker.run(&root, run).await;
    let tree = worker.tree(&result, ".").await;
    let files: Vec<&str> = tree
        .root
        .as_ref()
        .unwrap()
        .files
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(files, ["kept", "made"]);
    let names: Vec<&str> = tree
        .root
        .as_ref()
        .unwrap()
        .directories
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(names, ["dev", "proc", "tmp", "usr"]);
    // What is mounted belongs to the sandbox.
    assert!(
        !tree
            .children
            .iter()
            .flat_map(|child| &child.files)
            .any(|file| file.name == "x")
    );
}

#[tokio::test]
async fn the_machine_is_out_of_reach() {
    let worker = Worker::new().await;
    let secret = worker.directory.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let path = secret.display();
    // Hostile: links in the places that the sandbox uses otherwise, and a program that is started before the command.
    let root = root(&[
        ("work", symlink("/")),
        ("etc", symlink("/proc/1/root/etc")),
        ("old", directory([])),
    ]);
    let script = format!(
        "for place in '' /proc/1/root /proc/self/root /work /old /proc/1/cwd ../../../..; do \
         if cat $place{path} $place/etc/passwd 2> /dev/null; then exit 1; fi; done; \
         if mount -t tmpfs none /old 2> /dev/null; then exit 2; fi; \
         if umount /proc 2> /dev/null; then exit 3; fi; \
         if unshare --user true 2> /dev/null; then exit 4; fi; \
         if echo x > /proc/sys/kernel/hostname 2> /dev/null; then exit 5; fi; \
         while read -r line; do echo \"$line\"; done < /proc/self/mounts"
    );
    let run = Run {
        script: &script,
        platform: INPUT_ROOT,
        ..Run::default()
    };
    let result = worker.run(&root, run).await;
    let mounts = worker.stdout(&result).await;
    assert_eq!(result.exit_code, 0, "{mounts}");
    let points: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    assert!(
        points.iter().all(|point| {
            *point == "/" || ["/dev", "/proc", "/tmp"].iter().any(|own| point.starts_with(own))
        }),
        "{mounts}"
    );
}

#[tokio::test]
async fn the_next_action_has_the_root_of_the_machine() {
    let worker = Worker::new().await;
    let run = Run {
        script: "test ! -e /usr/bin/env",
        platform: INPUT_ROOT,
        ..Run::default()
    };
    assert_eq!(worker.run(&root(&[]), run).await.exit_code, 0);
    let run = Run {
        script: "test -e /usr/bin/env; test -d /work; pwd",
        ..Run::default()
    };
    let result = worker.run(&directory([]), run).await;
    assert_eq!(worker.stdout(&result).await, "/work\n");
}

#[tokio::test]
async fn a_root_without_mount_points_is_refused() {
    let worker = Worker::new().await;
    for replaced in [None, Some(("proc", symlink("usr"))), Some(("proc", file("")))] {
        let mut nodes = vec![("dev", directory([])), ("tmp", directory([]))];
        nodes.extend(replaced);
        let run = Run {
            script: "true",
            platform: INPUT_ROOT,
            ..Run::default()
        };
        let status = worker.respond(&image_root(&nodes), run).await.status.unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32);
        assert!(
            status.message.contains("no directory \"proc\""),
            "{}",
            status.message
        );
    }
}
