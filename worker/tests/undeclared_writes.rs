//! The platform property `undeclared-writes`.

use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn undeclared_writes_fail_with_the_platform_property() {
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
    for tree in tree.copied_and_overlaid() {
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

        // Without the property such writes are dropped. A failed command is not checked.
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
async fn declared_writes_pass_the_check() {
    let worker = Worker::new().await;
    let tree = directory([(
        "in",
        directory([("a", file("1")), ("deep", directory([("b", file("2"))]))]),
    )]);
    for tree in tree.copied_and_overlaid() {
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
async fn many_undeclared_writes_are_counted_to_the_bound() {
    let worker = Worker::with(|config| config.bounds.output_entries = 100).await;
    for (script, part) in [
        ("seq 1 100 | xargs touch", " and 80 more"),
        ("seq 1 101 | xargs touch", "this worker allows 100;"),
    ] {
        let run = Run {
            script,
            platform: &[("undeclared-writes", "error")],
            ..Run::default()
        };
        let status = worker.respond(&directory([]), run).await.status.unwrap();
        assert_eq!(status.code, Code::FailedPrecondition as i32, "{}", status.message);
        assert!(status.message.contains(part), "{}", status.message);
    }
}
