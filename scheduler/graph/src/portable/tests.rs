use std::collections::BTreeMap;

use bitzel_cas::MemoryBlobStore;
use bitzel_launcher::portable::{
    Attributes, IMAGE_ROOT, LAUNCHER, OUTCOME, OUTPUTS, OutputNode, PortableRequest, REQUEST, TREE,
    content_path,
};
use bitzel_proto::google::protobuf::{Timestamp, UInt32Value};
use bitzel_proto::reapi::platform::Property;
use bitzel_proto::reapi::{
    Directory, DirectoryNode, FileNode, NodeProperties, NodeProperty, OutputDirectory, Platform, Tree,
};
use parking_lot::Mutex;

use super::*;
use crate::plan::signature::blob;

const LAUNCHER_PROGRAM: &[u8] = b"the launcher";

/// Engine that answers each Action with the next outcome of a script, and keeps what it got.
struct ScriptedEngine {
    store: Arc<MemoryBlobStore>,
    outcomes: Mutex<Vec<Scripted>>,
    seen: Mutex<Vec<Seen>>,
}

/// Outcome and contents by number. `lost` removes the contents from the store, as a server with a stale result does.
struct Scripted {
    outcome: PortableOutcome,
    contents: Vec<&'static str>,
    lost: bool,
}

struct Seen {
    action: Action,
    root: Directory,
    request: PortableRequest,
    skip_cache_lookup: bool,
}

impl ScriptedEngine {
    async fn put(&self, blob: (Digest, Bytes)) -> Digest {
        let digest = blob.0;
        self.store.write_batch(vec![blob]).await.pop().unwrap().unwrap();
        digest
    }

    async fn put_bytes(&self, bytes: &[u8]) -> Digest {
        let bytes = Bytes::copy_from_slice(bytes);
        self.put((DIGEST_FUNCTION.digest(&bytes), bytes)).await
    }

    async fn get<M: Message + Default>(&self, digest: Option<&bitzel_proto::reapi::Digest>) -> M {
        let digest = Digest::from_wire_field(DIGEST_FUNCTION, digest).unwrap();
        M::decode(read_whole(&*self.store, digest).await.unwrap()).unwrap()
    }
}

fn file(name: &str, digest: Digest) -> FileNode {
    FileNode {
        name: name.to_owned(),
        digest: Some(digest.to_wire()),
        ..FileNode::default()
    }
}

#[async_trait]
impl Executions for ScriptedEngine {
    async fn execute(&self, request: ExecutionRequest<'_>) -> Result<ExecuteResponse, Status> {
        let action: Action = self.get(Some(&request.action.to_wire())).await;
        let root: Directory = self.get(action.input_root_digest.as_ref()).await;
        let text = root.files.iter().find(|file| file.name == REQUEST).unwrap();
        let text = Digest::from_wire_field(DIGEST_FUNCTION, text.digest.as_ref()).unwrap();
        let text = read_whole(&*self.store, text).await.unwrap();
        self.seen.lock().push(Seen {
            action,
            root,
            request: serde_json::from_slice(&text).unwrap(),
            skip_cache_lookup: request.skip_cache_lookup,
        });
        let scripted = self.outcomes.lock().remove(0);
        // The directories `contents` and `contents/0`.
        let mut inner = Directory::default();
        for (number, content) in scripted.contents.iter().enumerate() {
            let digest = self.put_bytes(content.as_bytes()).await;
            let path = content_path(number as u64);
            inner.files.push(file(path.rsplit('/').next().unwrap(), digest));
            if scripted.lost {
                self.store.remove(digest);
            }
        }
        let parent_of = |name: &str, child: &Directory| Directory {
            directories: vec![DirectoryNode {
                name: name.to_owned(),
                digest: Some(blob(child).0.to_wire()),
            }],
            ..Directory::default()
        };
        let outer = parent_of("0", &inner);
        let mut root = parent_of("contents", &outer);
        let outcome = serde_json::to_vec(&scripted.outcome).unwrap();
        root.files.push(file(OUTCOME, self.put_bytes(&outcome).await));
        let tree = self
            .put(blob(&Tree {
                root: Some(root),
                children: vec![outer, inner],
            }))
            .await;
        Ok(ExecuteResponse {
            cached_result: !request.skip_cache_lookup,
            result: Some(ActionResult {
                output_directories: vec![OutputDirectory {
                    path: OUTPUTS.to_owned(),
                    tree_digest: Some(tree.to_wire()),
                    ..OutputDirectory::default()
                }],
                ..ActionResult::default()
            }),
            ..ExecuteResponse::default()
        })
    }
}

fn exited(outputs: Vec<(&str, OutputNode)>) -> PortableOutcome {
    PortableOutcome {
        report: LaunchReport::Exited(0),
        outputs: outputs
            .into_iter()
            .map(|(path, node)| (path.to_owned(), node))
            .collect(),
        undeclared: vec![],
        undeclared_count: 0,
    }
}

fn scripted(outcome: PortableOutcome, contents: &[&'static str]) -> Scripted {
    Scripted {
        outcome,
        contents: contents.to_vec(),
        lost: false,
    }
}

/// Outcome of the check.
fn checked() -> Scripted {
    scripted(exited(vec![]), &[])
}

fn properties(mode: u32, seconds: i64, group: Option<&str>) -> NodeProperties {
    NodeProperties {
        properties: group
            .map(|group| NodeProperty {
                name: "hardlink-group".into(),
                value: group.into(),
            })
            .into_iter()
            .collect(),
        mtime: Some(Timestamp { seconds, nanos: 7 }),
        unix_mode: Some(UInt32Value { value: mode }),
    }
}

/// An engine, executions on it, and the digest of an Action with the outputs `out` and `log` and an input `out/kept`.
async fn executions(
    outcomes: Vec<Scripted>,
    image_root: Option<Digest>,
) -> (Arc<ScriptedEngine>, PortableExecutions, Digest) {
    let engine = Arc::new(ScriptedEngine {
        store: Arc::default(),
        outcomes: Mutex::new(outcomes),
        seen: Mutex::default(),
    });
    let mut kept = file("kept", engine.put_bytes(b"kept").await);
    kept.node_properties = Some(properties(0o640, 1, None));
    let out = blob(&Directory {
        files: vec![kept],
        node_properties: Some(properties(0o700, 2, None)),
        ..Directory::default()
    });
    let root = blob(&Directory {
        directories: vec![DirectoryNode {
            name: "out".into(),
            digest: Some(engine.put(out).await.to_wire()),
        }],
        ..Directory::default()
    });
    let command = blob(&Command {
        arguments: vec!["make".into()],
        output_paths: vec!["log".into(), "out".into()],
        output_node_properties: vec!["mtime".into(), "unix_mode".into()],
        ..Command::default()
    });
    let property = |name: &str, value: &str| Property {
        name: name.into(),
        value: value.into(),
    };
    let action = blob(&Action {
        command_digest: Some(engine.put(command).await.to_wire()),
        input_root_digest: Some(engine.put(root).await.to_wire()),
        do_not_cache: true,
        platform: Some(Platform {
            properties: vec![
                property("network", "on"),
                property("root-identity", "debian"),
                property("undeclared-writes", "error"),
            ],
        }),
        ..Action::default()
    });
    let settings = PortableSettings {
        launcher: Bytes::from_static(LAUNCHER_PROGRAM),
        properties: vec![("pool".into(), "linux".into())],
        image_root,
    };
    let store = Arc::clone(&engine.store);
    let action = engine.put(action).await;
    let inner = Arc::clone(&engine);
    (engine, PortableExecutions::new(inner, store, settings), action)
}

fn request(action: Digest) -> ExecutionRequest<'static> {
    ExecutionRequest {
        remaining_path: std::time::Duration::ZERO,
        input_trees: &[],
        action,
        skip_cache_lookup: false,
        task: "zlib:do_compile",
    }
}

#[tokio::test]
async fn the_input_root_has_launcher_request_tree_and_root() {
    let image_root = DIGEST_FUNCTION.digest(b"image");
    let (engine, executions, action) =
        executions(vec![checked(), scripted(exited(vec![]), &[])], Some(image_root)).await;
    executions.execute(request(action)).await.unwrap();
    let seen = engine.seen.lock();
    let [check, task] = &seen[..] else {
        panic!("{} executions", seen.len());
    };
    assert_eq!(check.request.command, ["./bitzel-launcher", "do-nothing"]);
    let names: BTreeMap<&str, Digest> = task
        .root
        .files
        .iter()
        .map(|node| (node.name.as_str(), node.digest.as_ref()))
        .chain(
            task.root
                .directories
                .iter()
                .map(|node| (node.name.as_str(), node.digest.as_ref())),
        )
        .map(|(name, digest)| (name, Digest::from_wire_field(DIGEST_FUNCTION, digest).unwrap()))
        .collect();
    assert_eq!(names[LAUNCHER], DIGEST_FUNCTION.digest(LAUNCHER_PROGRAM));
    assert_eq!(names[IMAGE_ROOT], image_root);
    assert!(names.contains_key(TREE));
    assert!(task.action.do_not_cache);
    let platform = &task.action.platform.as_ref().unwrap().properties;
    assert_eq!(platform.len(), 1, "no property of bitzel: {platform:?}");
    let request = &task.request;
    assert!(request.network && request.image_root);
    assert_eq!(request.outputs, ["log", "out"]);
    assert_eq!(request.directories.len(), 1);
    let directory = &request.directories[0];
    assert_eq!(directory.path, "out");
    let attributes = |mode, seconds| Attributes {
        mode: Some(mode),
        mtime: Some((seconds, 7)),
        group: None,
    };
    assert_eq!(directory.attributes, attributes(0o700, 2));
    assert_eq!(directory.files, [("kept".to_owned(), attributes(0o640, 1))]);
}

#[tokio::test]
async fn outputs_are_those_of_a_worker_of_bitzel() {
    let new = |content| OutputNode::File {
        content,
        mode: 0o4755,
        mtime: (5, 7),
    };
    let outputs = vec![
        (
            "log",
            OutputNode::File {
                content: 1,
                mode: 0o644,
                mtime: (6, 7),
            },
        ),
        (
            "out",
            OutputNode::Directory {
                mode: 0o750,
                mtime: (4, 7),
            },
        ),
        ("out/twin", new(0)),
        ("out/kept", OutputNode::Unchanged),
        ("out/new", new(0)),
    ];
    let (engine, executions, action) =
        executions(vec![checked(), scripted(exited(outputs), &["new", "log"])], None).await;
    let response = executions.execute(request(action)).await.unwrap();
    let result = response.result.unwrap();
    assert_eq!(
        result.output_files[0].node_properties,
        Some(properties(0o644, 6, None))
    );
    let directory = &result.output_directories[0];
    let out: Directory = engine.get(directory.root_directory_digest.as_ref()).await;
    let mut new = file("new", DIGEST_FUNCTION.digest(b"new"));
    new.is_executable = true;
    new.node_properties = Some(properties(0o4755, 5, Some("out/new")));
    let twin = FileNode {
        name: "twin".into(),
        ..new.clone()
    };
    let mut kept = file("kept", DIGEST_FUNCTION.digest(b"kept"));
    kept.node_properties = Some(properties(0o640, 1, None));
    let expected = Directory {
        files: vec![kept, new, twin],
        node_properties: Some(properties(0o750, 4, None)),
        ..Directory::default()
    };
    assert_eq!(out, expected);
    let tree: Tree = engine.get(directory.tree_digest.as_ref()).await;
    assert_eq!(tree.root, Some(expected));
}

#[tokio::test]
async fn repeats_an_action_whose_contents_are_lost() {
    let outputs = || {
        let node = OutputNode::File {
            content: 0,
            mode: 0o644,
            mtime: (6, 7),
        };
        exited(vec![("log", node)])
    };
    let lost = Scripted {
        lost: true,
        ..scripted(outputs(), &["log"])
    };
    let (engine, executions, action) =
        executions(vec![checked(), lost, scripted(outputs(), &["log"])], None).await;
    let response = executions.execute(request(action)).await.unwrap();
    assert_eq!(response.result.unwrap().output_files.len(), 1);
    let skipped: Vec<bool> = engine
        .seen
        .lock()
        .iter()
        .map(|seen| seen.skip_cache_lookup)
        .collect();
    assert_eq!(skipped, [false, false, true]);
}

#[tokio::test]
async fn undeclared_writes_fail_the_action() {
    let outcome = PortableOutcome {
        undeclared: vec!["layers/x".into()],
        undeclared_count: 3,
        ..exited(vec![])
    };
    let (_, executions, action) = executions(vec![checked(), scripted(outcome, &[])], None).await;
    let response = executions.execute(request(action)).await.unwrap();
    let status = response.status.unwrap();
    assert_eq!(status.code, Code::FailedPrecondition as i32);
    assert_eq!(
        status.message,
        "the command wrote outside its declared outputs: layers/x and 2 more"
    );
}

#[tokio::test]
async fn a_failed_check_is_the_error_of_all_tasks() {
    let failed = PortableOutcome {
        report: LaunchReport::Failed {
            step: "mount /proc".into(),
            reason: "Operation not permitted".into(),
            errno: Some(1),
        },
        ..exited(vec![])
    };
    let (engine, executions, action) = executions(vec![scripted(failed, &[])], None).await;
    for _ in 0..2 {
        let status = executions.execute(request(action)).await.unwrap_err();
        assert!(
            status.message().contains("mount /proc: Operation not permitted")
                && status.message().contains("/usr/bin/python3"),
            "{status}"
        );
    }
    assert_eq!(engine.seen.lock().len(), 1, "one check for all tasks");
}

#[tokio::test]
async fn refuses_outcomes_that_describe_no_tree() {
    let directory = || OutputNode::Directory {
        mode: 0o755,
        mtime: (0, 0),
    };
    let new = || OutputNode::File {
        content: 0,
        mode: 0o644,
        mtime: (0, 0),
    };
    let malformed = [
        vec![("out", directory()), ("out/..", new())],
        vec![("out", directory()), ("out/a/b", new())],
        vec![("out", directory()), ("out/a", new()), ("out/a", new())],
        vec![
            (
                "out",
                OutputNode::Directory {
                    mode: 0o755,
                    mtime: (0, 0),
                },
            ),
            ("out/absent", OutputNode::Unchanged),
        ],
        vec![(
            "log",
            OutputNode::File {
                content: 9,
                mode: 0o644,
                mtime: (0, 0),
            },
        )],
    ];
    for outputs in malformed {
        let text = format!("{outputs:?}");
        let (_, executions, action) =
            executions(vec![checked(), scripted(exited(outputs), &["x"])], None).await;
        let status = executions.execute(request(action)).await.unwrap_err();
        assert_eq!(status.code(), Code::DataLoss, "{text}: {status}");
    }
}
