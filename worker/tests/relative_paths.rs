//! Working directories and outputs with `.` and `..`, as other clients write them.

use tonic::Code;

use crate::harness::*;

/// Names of the entries of a Directory.
fn names(directory: &bitzel_proto::reapi::Directory) -> Vec<String> {
    let files = directory.files.iter().map(|node| node.name.clone());
    let directories = directory.directories.iter().map(|node| node.name.clone());
    files.chain(directories).collect()
}

#[tokio::test]
async fn outputs_lie_beside_the_working_directory() {
    let worker = Worker::new().await;
    let tree = directory([("sub", directory([("f", file("input"))]))]);
    for tree in tree.copied_and_overlaid() {
        // The Go SDK: `rexec -working_directory sub -output_files ../o2.txt`.
        let run = Run {
            script: "pwd; echo beside > ../o2.txt; mkdir -p ../other; echo deep > ../other/o3; echo new > new",
            working_directory: "./sub/../sub/",
            outputs: &["../o2.txt", "x/../../other/o3", "."],
            platform: &[("undeclared-writes", "error")],
            ..Run::default()
        };
        let result = worker.run(&tree, run).await;
        assert_eq!(worker.stdout(&result).await, "/work/sub\n");
        assert_eq!(worker.output(&result, "../o2.txt").await, "beside\n");
        assert_eq!(worker.output(&result, "x/../../other/o3").await, "deep\n");
        let own = worker.tree(&result, ".").await.root.unwrap();
        assert_eq!(names(&own), ["f", "new"]);
    }
}

#[tokio::test]
async fn the_whole_input_root_can_be_an_output() {
    let worker = Worker::new().await;
    let tree = directory([("kept", directory([("f", file("input"))])), ("gone", file("x"))]);
    for tree in tree.copied_and_overlaid() {
        // BuildStream: the root of the sandbox is writable, and an output.
        for output in [".", "./", "kept/.."] {
            let run = Run {
                script: "rm gone; echo new > new; mkdir made; test ! -e kept/..new",
                outputs: &[output],
                platform: &[("undeclared-writes", "error")],
                ..Run::default()
            };
            let result = worker.run(&tree, run).await;
            let root = worker.tree(&result, output).await.root.unwrap();
            assert_eq!(names(&root), ["new", "kept", "made"]);
        }
    }
}

#[tokio::test]
async fn no_path_leads_out_of_the_input_root() {
    let worker = Worker::new().await;
    let tree = directory([("sub", directory([("up", Node::Symlink("../..".into()))]))]);
    for (working_directory, output) in [
        ("sub", "../../etc"),
        ("", ".."),
        ("..", "x"),
        ("sub/../..", "sub/x"),
    ] {
        let run = Run {
            script: "echo x > x",
            working_directory,
            outputs: &[output],
            ..Run::default()
        };
        let status = worker.respond(&tree, run).await.status.unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32, "{}", status.message);
        assert!(
            status.message.contains("leads out of the input root"),
            "{}",
            status.message
        );
    }
    // Nor through a symlink: a path through one has no output.
    let run = Run {
        script: "true",
        working_directory: "sub",
        outputs: &["up/usr/bin/env", "./up/../up/etc/passwd"],
        ..Run::default()
    };
    let result = worker.run(&tree, run).await;
    assert_eq!(result.output_files, []);
}

#[tokio::test]
async fn outputs_with_too_long_paths_are_the_fault_of_the_client() {
    let worker = Worker::new().await;
    let deep = |bytes: usize| {
        let components = vec!["n".repeat(199); bytes / 200];
        components.join("/")
    };
    // The last one is too long only below the directory of the worker.
    for path in [
        "n".repeat(256),
        deep(5000),
        format!("{}/{}", deep(4000), "n".repeat(88)),
    ] {
        let outputs: &[&str] = &[&path];
        let run = Run {
            script: "true",
            outputs,
            ..Run::default()
        };
        let status = worker.respond(&directory([]), run).await.status.unwrap();
        assert_eq!(status.code, Code::InvalidArgument as i32, "{}", status.message);
        assert!(status.message.contains("bytes"), "{}", status.message);
    }
    assert_eq!(worker.leftovers(), Vec::<std::path::PathBuf>::new());
}
